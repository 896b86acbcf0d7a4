"""Tests of the reader of TUM RGB-D."""

from pathlib import Path

import pytest
import torch
from turned_cameras import ROOT_HALF, check_turned_right, depth_picture, picture, refused

from recon4d.datasets.readers.tum import Tum
from recon4d.errors import DataError


@pytest.fixture
def tum(tmp_path: Path) -> Path:
    """Write three images. The second camera has turned right, its depth is 15 ms late; the third has no camera."""
    folder = tmp_path / "rgbd_dataset_freiburg2_desk"
    for number, seconds in enumerate(("1311868164.10", "1311868164.20", "1311868164.30")):
        picture(folder / "rgb" / f"{seconds}.png", 50 * number)
    depth_picture(folder / "depth" / "1311868164.215.png", [5000, 0, 65535])
    (folder / "rgb.txt").write_text(
        "# color images\n1311868164.10 rgb/1311868164.10.png\n1311868164.20 rgb/1311868164.20.png\n"
        "1311868164.30 rgb/1311868164.30.png\n"
    )
    (folder / "depth.txt").write_text("# depth\n1311868164.215 depth/1311868164.215.png\n")
    (folder / "groundtruth.txt").write_text(
        "# timestamp tx ty tz qx qy qz qw\n"
        "1311868164.085 9 9 9 0 0 0 1\n"
        "1311868164.101 1 2 3 0 0 0 1\n"
        f"1311868164.192 3 2 3 0 {ROOT_HALF} 0 {ROOT_HALF}\n"
        "1311868164.33 9 9 9 0 0 0 1\n"
    )
    return tmp_path


def test_poses_have_w_last_and_are_associated_by_time(tum: Path) -> None:
    data = Tum(tum)
    assert data.names() == ["rgbd_dataset_freiburg2_desk"]
    assert data.num_frames(data.names()[0]) == 2
    sample = data.read(data.names()[0], [0, 1])
    check_turned_right(sample)
    assert sample.clip.images[:, 0, 0, 0].tolist() == [0, 50]
    torch.testing.assert_close(sample.clip.times, torch.tensor([0.0, 0.1]), rtol=0, atol=1e-6)


def test_intrinsics_are_shifted_by_half_a_pixel(tum: Path) -> None:
    name = "rgbd_dataset_freiburg2_desk"
    by_name = Tum(tum).read(name, [0]).scene.cameras.intrinsics[0]
    torch.testing.assert_close(by_name, torch.tensor([[520.9, 0, 325.6], [0, 521.0, 250.2], [0, 0, 1]]))
    given = Tum(tum, intrinsics=(5.0, 6.0, 2.0, 1.0)).read(name, [0]).scene.cameras.intrinsics[0]
    torch.testing.assert_close(given, torch.tensor([[5.0, 0, 2.5], [0, 6.0, 1.5], [0, 0, 1]]))


def test_depth_is_scaled_by_5000_and_zero_is_unknown(tum: Path) -> None:
    scene = Tum(tum).read("rgbd_dataset_freiburg2_desk", [0, 1]).scene
    assert not scene.depth_confidence[0].any()
    torch.testing.assert_close(scene.depths[1, 0, :3], torch.tensor([1.0, 0.0, 13.107]))
    assert scene.depth_confidence[1, 0, :3].tolist() == [1, 0, 1]


def test_without_lists_images_named_by_their_times_are_read(tmp_path: Path) -> None:
    picture(tmp_path / "1311868169.16.jpg")
    picture(tmp_path / "1311868169.26.jpg")
    (tmp_path / "groundtruth.txt").write_text(
        f"1311868169.16.jpg 0 0 0 0 0 0 1\n1311868169.26.jpg 2 0 0 0 {ROOT_HALF} 0 {ROOT_HALF}\n"
    )
    data = Tum(tmp_path, intrinsics=(5.0, 5.0, 2.5, 1.5))
    sample = data.read(tmp_path.name, [0, 1])
    check_turned_right(sample)
    assert not sample.scene.depth_confidence.any()
    with pytest.raises(DataError, match="give intrinsics fx, fy, cx, cy"):
        Tum(tmp_path).read(tmp_path.name, [0])


def test_calibrations_are_selected_by_name() -> None:
    data = Tum.__new__(Tum)
    data.intrinsics = None
    found = {name: data._calibration(name)[0, 0].item() for name in ("freiburg1_xyz", "fr2_desk", "freiburg3_walking")}
    assert found == {"freiburg1_xyz": 517.3, "fr2_desk": 520.9, "freiburg3_walking": 535.4}


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("groundtruth.txt", "1311868164.10 1 2 3 0 0 0\n", "shape (6,), wanted (7)"),
        ("groundtruth.txt", "noon 1 2 3 0 0 0 1\n", "does not begin with a time"),
        ("groundtruth.txt", ",\n", "no camera within 0.02 s"),
        ("groundtruth.txt", "1311868164.10 1 2 nan 0 0 0 1\n", "not finite"),
        ("groundtruth.txt", "1311868164.10 1 2 3 0 0 0 0\n", "quaternion"),
        ("groundtruth.txt", "5 1 2 3 0 0 0 1\n", "no camera within 0.02 s"),
        ("rgb.txt", "1311868164.10\n", "rgb.txt"),
        ("rgb/1311868164.10.png", "", "1311868164.10.png"),
        ("rgb.txt", f"1311868164.10 {'a' * 3000}\n1311868164.2 {'a' * 3000}\n", "is missing"),
        ("depth/1311868164.215.png", "\x89PNG", "1311868164.215.png"),
    ],
)
def test_damage_is_reported_in_one_line(tum: Path, file: str, content: str, named: str) -> None:
    name = "rgbd_dataset_freiburg2_desk"
    (tum / name / file).write_text(content)
    with refused(name, named):
        Tum(tum).read(name, [0, 1])
