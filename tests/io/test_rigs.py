"""Rigs: pictures of several cameras are paired by name, time or number, and moments are selected."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recon4d.errors import UserError
from recon4d.io.results import frame_file_names
from recon4d.io.rigs import read_rig
from recon4d.records import Rig


def write(folder: Path, camera: str, names: list[str], size: tuple[int, int] = (32, 48)) -> None:
    (folder / camera).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        value = 100 * (camera != "left") + number
        Image.fromarray(np.full((*size, 3), value, np.uint8)).save(folder / camera / name)


def seen(clip) -> list[int]:
    return clip.images[:, 0, 0, 0].tolist()


def test_pictures_of_equal_names_are_one_moment(tmp_path: Path) -> None:
    write(tmp_path, "left", [f"{number}.png" for number in (1, 2, 3, 10)])
    write(tmp_path, "right", [f"{number}.png" for number in (2, 3, 10, 11)])
    with pytest.warns(UserWarning, match="2 of 8 pictures have no counterpart"):
        clip, report = read_rig(tmp_path, None, fps=2)
    assert clip.source.names == (
        "left/2.png",
        "left/3.png",
        "left/10.png",
        "right/2.png",
        "right/3.png",
        "right/10.png",
    )
    assert seen(clip) == [1, 2, 3, 100, 101, 102]
    assert clip.rig == Rig(("left", "right"), (0, 0, 0, 1, 1, 1), (0, 1, 2, 0, 1, 2))
    assert clip.times.tolist() == [0, 0.5, 1, 0, 0.5, 1]
    assert report == "rig: 2 cameras (left, right), 3 of 3 moments, paired by name"
    assert frame_file_names(clip.source, 6)[::3] == ["left_2.jpg", "right_2.jpg"]


def test_pictures_are_paired_by_times_in_their_names(tmp_path: Path) -> None:
    write(tmp_path / "rig", "cam0/data", ["1403636580000000000.png", "1403636580050000000.png"])
    write(tmp_path / "rig", "cam1/data", ["1403636580052000000.png", "1403636580001000000.png"])
    clip, report = read_rig(tmp_path / "rig")
    assert report.endswith("paired by the times that they are named by")
    assert clip.rig.names == ("cam0", "cam1")
    torch.testing.assert_close(clip.times, torch.tensor([0, 0.05, 0, 0.05]))
    assert clip.source.names[3] == "cam1/data/1403636580052000000.png"


def test_pictures_are_paired_by_number_and_evenly_selected(tmp_path: Path) -> None:
    write(tmp_path, "left", [f"left_{number}.png" for number in range(9)])
    write(tmp_path, "right", [f"R{number:03d}.png" for number in range(9)])
    clip, report = read_rig(tmp_path, 7)
    assert report == "rig: 2 cameras (left, right), 3 of 9 moments, paired by number"
    assert seen(clip) == [0, 4, 8, 100, 104, 108]
    assert clip.times.isnan().all()


def test_a_camera_may_miss_moments_and_have_another_size(tmp_path: Path) -> None:
    write(tmp_path, "left", ["0.png", "1.png", "2.png"])
    write(tmp_path, "middle", ["0.png", "2.png"], (48, 32))
    write(tmp_path, "right", ["0.png", "1.png", "2.png"])
    with pytest.warns(UserWarning, match="pictures of 2 sizes"):
        clip, _ = read_rig(tmp_path)
    assert clip.rig.cameras == (0, 0, 0, 1, 1, 2, 2, 2)
    assert clip.rig.moments == (0, 1, 2, 0, 2, 0, 1, 2)
    assert clip.rig.serpentine() == [0, 1, 2, 4, 3, 5, 6, 7]
    assert clip.source.sizes[3] == (48, 32)


def test_rigs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        read_rig(tmp_path / "nowhere")
    write(tmp_path, "left", ["a.png", "b.png"])
    with pytest.raises(UserError, match="has 1 sub-folder with pictures"):
        read_rig(tmp_path)
    write(tmp_path, "right", ["c.png", "d.png"])
    with pytest.raises(UserError, match=r"nothing tells which pictures .* \(left/a\.png and right/c\.png"):
        read_rig(tmp_path)
    with pytest.raises(UserError, match="same camera at the same moment"):
        Rig(("a",), (0, 0), (1, 1))
    with pytest.raises(UserError, match="frame of camera 1"):
        Rig(("a",), (1,), (1,))
