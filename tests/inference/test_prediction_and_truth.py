"""Prediction and ground truth are the same record and are written alike."""

from pathlib import Path

import numpy as np
import torch

from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.io import SceneInfo, load_scene, write_results
from recon4d.records import Scene
from recon4d.zoo import create_model


def tensors(scene: Scene) -> list[torch.Tensor]:
    """Return all tensors of a scene."""
    found: list[torch.Tensor] = []
    scene.map(lambda tensor: found.append(tensor) or tensor)
    return found


def test_predictions_have_the_shapes_of_ground_truth_and_are_written_alike(tmp_path: Path) -> None:
    config = SyntheticConfig(num_frames=3, height=32, width=48)
    sample = render_scenes(make_scenes(config, 0, [0, 1]), config, anchors=(0, 2))
    model = create_model("recon4d_tiny", pretrained=False)
    with torch.no_grad():
        predicted = model.outputs(sample.clip.images, sample.clip.times, anchors=(0, 2)).scene
    shapes = [[tuple(tensor.shape) for tensor in tensors(scene)] for scene in (predicted, sample.scene)]
    assert shapes[0] == shapes[1]
    assert predicted.tracks is not None
    assert sample.scene.tracks is not None
    assert torch.equal(predicted.tracks.pixels, sample.scene.tracks.pixels)

    info = SceneInfo("either", True, "0", None, (32, 48), {})
    names = []
    for name, scene in (("predicted", predicted), ("true", sample.scene)):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, sample[0].clip, scene[0].in_frame(0), info)
        names.append(sorted(path.name for path in (tmp_path / name).iterdir()))
        assert np.array_equal(load_scene(tmp_path / name).depths, scene[0].depths)
    assert names[0] == names[1]
