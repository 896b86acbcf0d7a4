"""Tests of the reader of image folders with cameras.json, and of missing data sets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from turned_cameras import HEIGHT, RIGHT, WIDTH, check_turned_right, matrix, picture, refused

from recon4d.datasets.readers.camera_folder import CameraFolder
from recon4d.datasets.readers.colmap import ColmapModels
from recon4d.datasets.readers.seven_scenes import SevenScenes
from recon4d.datasets.readers.tapvid3d import TapVid3D
from recon4d.datasets.readers.tum import Tum
from recon4d.errors import DataError, UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "lego"
    frames = []
    for number, pose in enumerate((matrix(np.eye(3), [1, 1, 1]), matrix(RIGHT, [3, 1, 1]))):
        picture(folder / f"{number:02d}.png", 10 * number)
        frames.append({"image": f"{number:02d}.png", "world_from_cam": pose.tolist()})
    stored = {"width": WIDTH, "height": HEIGHT, "intrinsics": [[7, 0, 3], [0, 7, 2], [0, 0, 1]], "frames": frames}
    (folder / "cameras.json").write_text(json.dumps(stored))
    return tmp_path


def test_cameras_are_read_as_stored(photos: Path) -> None:
    for data in (CameraFolder(photos), CameraFolder(photos / "lego")):
        assert data.names() == ["lego"]
        sample = data.read("lego", [0, 1])
        check_turned_right(sample)
        torch.testing.assert_close(
            sample.scene.cameras.intrinsics[1], torch.tensor([[7.0, 0, 3], [0, 7, 2], [0, 0, 1]])
        )
        assert sample.clip.times.isnan().all()
        assert sample.scene.metres_per_unit.isnan()
        assert not sample.scene.depth_confidence.any()
        assert not sample.scene.point_confidence.any()


def test_a_distant_origin_costs_no_precision(photos: Path) -> None:
    file = photos / "lego" / "cameras.json"
    stored = json.loads(file.read_text())
    for frame in stored["frames"]:
        frame["world_from_cam"][0][3] += 1e8
    file.write_text(json.dumps(stored))
    check_turned_right(CameraFolder(photos).read("lego", [0, 1]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"frames": []}, "frames"),
        ({"width": 5}, "00.png"),
        ({"intrinsics": [[7, 0], [0, 7]]}, "shape (2, 2), wanted (3, 3)"),
        ({"intrinsics": [[0, 0, 3], [0, 7, 2], [0, 0, 1]]}, "pinhole"),
        ({"frames": [{"image": "00.png"}] * 2}, "has no world_from_cam"),
        ({"frames": [{"image": "00.png", "world_from_cam": (-np.eye(4)).tolist()}] * 2}, "not a rotation"),
        ({"frames": [{"image": "09.png", "world_from_cam": np.eye(4).tolist()}] * 2}, "09.png: is missing"),
        ({"frames": [{"image": "../x.png", "world_from_cam": np.eye(4).tolist()}] * 2}, "'../x.png', which is outside"),
    ],
)
def test_a_wrong_cameras_json_is_reported_in_one_line(photos: Path, change: dict, named: str) -> None:
    file = photos / "lego" / "cameras.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with refused("lego", named):
        CameraFolder(photos).read("lego", [0, 1])


def test_images_of_different_sizes_are_reported(photos: Path) -> None:
    picture(photos / "lego" / "01.png", size=(HEIGHT, WIDTH + 1))
    with pytest.raises(DataError, match=r"01\.png"):
        CameraFolder(photos).read("lego", [0, 1])


def test_folders_without_data_are_refused(tmp_path: Path) -> None:
    for data in (Tum, CameraFolder, TapVid3D, SevenScenes, ColmapModels):
        with pytest.raises(UserError, match=str(tmp_path)):
            data(tmp_path)
        with pytest.raises(UserError, match="nowhere is not a folder"):
            data(tmp_path / "nowhere")
