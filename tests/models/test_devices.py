"""All tensors are created on the device of the inputs; a test for running on a GPU that needs no GPU.

Tensors on torch's meta device cannot be combined with CPU tensors and have no values to read back, so a tensor created
on the wrong device and a hidden synchronization both raise an error.
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
    # Autocast does not support the meta device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    model = empty_model(model_config("recon4d_tiny", heads)).to("meta")  # pyright: ignore[reportArgumentType]
    priors = Priors.stack([Priors.unknown(FRAMES)] * BATCH).to("meta")
    images = torch.zeros(BATCH, FRAMES, 3, *SIZE, device="meta", dtype=torch.uint8)
    times = torch.zeros(BATCH, FRAMES, device="meta")
    scene = model.outputs(images, times, anchors=(0, 2), priors=priors, frame_chunk=2).scene
    assert scene.tracks is not None
    for tensor in (scene.cameras.intrinsics, scene.points, scene.tracks.points, scene.tracks.pixels):
        assert tensor.device.type == "meta"


def test_synthetic_scenes() -> None:
    config = SyntheticConfig(num_frames=FRAMES, height=SIZE[0], width=SIZE[1])
    world = make_scenes(config, 0, range(BATCH), device="meta", num_textures=2)
    pictures = torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device="meta")
    sample = render_scenes(world, config, anchors=(0, 2), textures=pictures)
    assert sample.scene.tracks is not None
    for tensor in (sample.clip.images, sample.scene.depths, sample.scene.tracks.points):
        assert tensor.device.type == "meta"
