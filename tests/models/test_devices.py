"""Nothing is made on the wrong device: the twin, on any machine, of running on a GPU.

Tensors without storage (torch's meta device) refuse to meet tensors of the CPU, and answer nothing that is read back,
so a stray `torch.arange` and a hidden synchronization both show.
"""

from contextlib import nullcontext

import pytest
import torch

from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.records import Priors
from recon4d.zoo import empty_model, model_config

BATCH, FRAMES, SIZE = 2, 3, (32, 48)


@pytest.mark.parametrize("heads", ["linear", "dpt"])
def test_the_network(heads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # There is no autocast for the meta device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    model = empty_model(model_config("recon4d_tiny", heads)).to("meta")  # pyright: ignore[reportArgumentType]
    known = Priors.stack([Priors.nothing(FRAMES)] * BATCH).to("meta")
    images = torch.zeros(BATCH, FRAMES, 3, *SIZE, device="meta", dtype=torch.uint8)
    times = torch.zeros(BATCH, FRAMES, device="meta")
    scene = model.outputs(images, times, anchors=(0, 2), known=known, frame_chunk=2).scene
    assert scene.tracks is not None
    for tensor in (scene.cameras.intrinsics, scene.points, scene.tracks.points, scene.tracks.pixels):
        assert tensor.device.type == "meta"


def test_worlds() -> None:
    config = SyntheticConfig(num_frames=FRAMES, height=SIZE[0], width=SIZE[1])
    world = make_scenes(config, 0, range(BATCH), device="meta", num_pictures=2)
    pictures = torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device="meta")
    sample = render_scenes(world, config, anchors=(0, 2), pictures=pictures)
    assert sample.scene.tracks is not None
    for tensor in (sample.clip.images, sample.scene.depths, sample.scene.tracks.points):
        assert tensor.device.type == "meta"
