"""Nerfstudio's folders as data: cameras, lenses, depth with its scale."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turned_cameras import picture

from recon4d.datasets import NerfstudioFolders
from recon4d.errors import DataError
from recon4d.io import write_raster

HEIGHT, WIDTH = 40, 60


def write(folder: Path, shared: dict[str, Any], suffix: str = ".png", depth: np.ndarray | None = None) -> Path:
    """Write two frames, the second one unit to the right of the first, in reversed order in the file."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for number in (1, 0):
        image = np.full((HEIGHT, WIDTH, 3), 100 + number, dtype=np.uint8)
        write_raster(folder / "images" / f"{number}.png", image)
        pose = np.eye(4)
        pose[0, 3] = number
        frame = {"file_path": f"images/{number}{suffix}", "transform_matrix": pose.tolist()}
        if depth is not None:
            write_raster(folder / f"depth_{number}.png", depth)
            frame["depth_file_path"] = f"depth_{number}.png"
        frames.append(frame)
    (folder / "transforms.json").write_text(json.dumps({**shared, "frames": frames}))
    return folder


@pytest.mark.parametrize("suffix", [".png", ""])
def test_cameras_and_images(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "a", {"fl_x": 50, "cx": 31, "cy": 19}, suffix)
    data = NerfstudioFolders(tmp_path)
    assert data.names() == ["a"]
    assert data.num_frames("a") == 2
    sample = data.read("a", [0, 1])
    assert sample.clip.images[:, 0, 0, 0].tolist() == [100, 101]
    assert sample.scene.cameras.world_from_cam[:, 0, 3].tolist() == [0, 1]
    assert sample.scene.cameras.intrinsics[1].tolist() == [[50, 0, 31], [0, 50, 19], [0, 0, 1]]
    assert not sample.scene.depth_confidence.any()


@pytest.mark.parametrize(("shared", "unit"), [({}, 0.001), ({"depth_unit_scale_factor": 0.25}, 0.25)])
def test_depth_has_the_scale_of_the_file(tmp_path: Path, shared: dict[str, Any], unit: float) -> None:
    """The depth maps have half the size of the images."""
    depth = np.zeros((20, 30), dtype=np.uint16)
    depth[3, 7] = 4000
    write(tmp_path, {"fl_x": 50, **shared}, depth=depth)
    scene = NerfstudioFolders(tmp_path).read(tmp_path.name, [1]).scene
    assert (scene.depth_confidence[0] > 0).nonzero().tolist() == [[6, 14], [6, 15], [7, 14], [7, 15]]
    assert float(scene.depths[0, 7, 15]) == pytest.approx(4000 * unit)


def test_distortion_is_removed(tmp_path: Path) -> None:
    depth = np.full((HEIGHT, WIDTH), 2000, dtype=np.uint16)
    write(tmp_path, {"fl_x": 50, "k1": 0.3, "k2": 0.1}, depth=depth)
    sample = NerfstudioFolders(tmp_path).read(tmp_path.name, [0])
    # The corners of a pincushion lens show more than the picture.
    assert sample.clip.images[0, :, 0, 0].tolist() == [0, 0, 0]
    assert sample.clip.images[0, 0, 20, 30] == 100
    assert sample.scene.depth_confidence[0, 0, 0] == 0
    assert float(sample.scene.depths[0, 20, 30]) == 2


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ({}, "does not state the camera and focal length of every image"),
        ({"fl_x": 50, "depth_unit_scale_factor": 0}, "depth_unit_scale_factor 0; wanted"),
        ({"fl_x": -1}, "focal length is -1"),
        ({"fl_x": 50, "camera_model": "EQUIRECTANGULAR"}, "360 degree"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, shared: dict[str, Any], message: str) -> None:
    write(tmp_path, shared)
    with pytest.raises(DataError, match=message) as caught:
        NerfstudioFolders(tmp_path).read(tmp_path.name, [0])
    assert "\n" not in str(caught.value)


def test_images_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", {"fl_x": 50})
    file = tmp_path / "a" / "transforms.json"
    file.write_text(file.read_text().replace("images/0.png", "../0.png"))
    picture(tmp_path / "0.png")
    with pytest.raises(DataError, match="outside of its folder"):
        NerfstudioFolders(tmp_path).read("a", [0, 1])
