"""Scenes written as Kubric are read back, and what the format cannot represent is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import make_clip

from recon4d import geometry as g
from recon4d.datasets import Sample, ground_truth_scene
from recon4d.datasets.readers.kubric import Kubric
from recon4d.datasets.writers.kubric import write_kubric
from recon4d.errors import UserError
from recon4d.records import Cameras

HEIGHT, WIDTH, COUNT = 6, 8, 3


# Tests of the writer.


def exact_sample(metres_per_unit: float = 1.0) -> Sample:
    steps = torch.arange(COUNT, dtype=torch.float32)[:, None]
    rotation = g.rotation_from_axis_angle(steps * torch.tensor([0.05, -0.2, 0.1]))
    intrinsics = torch.tensor([[9.0, 0, WIDTH / 2], [0, 9.0, HEIGHT / 2], [0, 0, 1]]).expand(COUNT, 3, 3)
    cameras = Cameras(g.rigid(rotation, steps * torch.tensor([0.1, -0.3, 0.2])), intrinsics)
    depths = 2 + torch.rand(COUNT, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    is_known, dynamic = torch.ones_like(depths, dtype=torch.bool), torch.zeros_like(depths)
    is_known[:, 0, 0] = False
    dynamic[:, 2:4, 1:3] = 1
    scene = ground_truth_scene(cameras, depths, is_known, dynamic=dynamic, metres_per_unit=metres_per_unit)
    return Sample(replace(make_clip(COUNT, HEIGHT, WIDTH)), scene)


def test_a_written_scene_is_read_back(tmp_path: Path) -> None:
    written = exact_sample()
    write_kubric(tmp_path, "mine", written)
    read = Kubric(tmp_path).read("mine", range(COUNT))
    assert torch.equal(read.clip.images, written.clip.images)
    torch.testing.assert_close(read.clip.times, written.clip.times)
    for found, given in (
        (read.scene.cameras.world_from_cam, written.scene.cameras.world_from_cam),
        (read.scene.cameras.intrinsics, written.scene.cameras.intrinsics),
        (read.scene.depths, written.scene.depths),
        (read.scene.points, written.scene.points),
    ):
        torch.testing.assert_close(found, given, rtol=1e-5, atol=1e-5)
    assert torch.equal(read.scene.depth_confidence, written.scene.depth_confidence)
    assert torch.equal(read.scene.dynamic, written.scene.dynamic)


def test_written_files_have_meters_and_distances(tmp_path: Path) -> None:
    sample = exact_sample(metres_per_unit=2.0)
    folder = write_kubric(tmp_path, "mine", sample)
    distance = np.array(Image.open(folder / "depth_00000.tiff"))[4, 6]
    slant = math.sqrt(1 + (2.5 / 9) ** 2 + (1.5 / 9) ** 2)
    assert np.array(Image.open(folder / "depth_00000.tiff"))[0, 0] == np.float32(1e10)
    assert distance == pytest.approx(2 * float(sample.scene.depths[0, 4, 6]) * slant, rel=1e-5)
    metadata = json.loads((folder / "metadata.json").read_text())
    # Blender's camera looks along -z, so OpenCV's identity is a rotation by 180 degrees about x.
    assert np.abs(metadata["camera"]["quaternions"][0]) == pytest.approx([0, 1, 0, 0], abs=1e-6)
    assert metadata["camera"]["positions"][1] == pytest.approx([0.2, -0.6, 0.4], abs=1e-6)
    assert (folder / "data_ranges.json").exists()


def with_intrinsics(matrix: list) -> Sample:
    sample = exact_sample()
    cameras = replace(sample.scene.cameras, intrinsics=torch.tensor(matrix).expand(COUNT, 3, 3))
    return replace(sample, scene=replace(sample.scene, cameras=cameras))


@pytest.mark.parametrize(
    "matrix",
    [
        [[9.0, 0, 4.5], [0, 9.0, 3.0], [0, 0, 1]],
        [[9.0, 0, 4.0], [0, 9.5, 3.0], [0, 0, 1]],
        [[9.0, 0.2, 4.0], [0, 9.0, 3.0], [0, 0, 1]],
        [[[f, 0, 4.0], [0, f, 3.0], [0, 0, 1]] for f in (9.0, 9.1, 9.0)],
    ],
)
def test_cameras_that_the_format_cannot_represent_are_refused(tmp_path: Path, matrix: list) -> None:
    with pytest.raises(UserError, match="one focal length"):
        write_kubric(tmp_path, "mine", with_intrinsics(matrix))
    assert not list(tmp_path.iterdir())


def test_samples_that_the_format_cannot_represent_are_refused(tmp_path: Path) -> None:
    sample = exact_sample()
    with pytest.raises(UserError, match="equal, ascending time steps"):
        write_kubric(tmp_path, "a", replace(sample, clip=replace(sample.clip, times=torch.tensor([0, 0.1, 0.3]))))
    with pytest.raises(UserError, match="motion in a single frame"):
        write_kubric(tmp_path, "b", sample.frames([0]))
    write_kubric(tmp_path, "c", sample)
    with pytest.raises(UserError, match="exists"):
        write_kubric(tmp_path, "c", sample)
