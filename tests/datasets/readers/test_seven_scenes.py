"""Tests of the reader of 7-Scenes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from turned_cameras import RIGHT, check_turned_right, depth_picture, matrix, picture, refused

from recon4d.datasets.readers.seven_scenes import SevenScenes


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "chess" / "seq-01"
    for number, pose in enumerate((matrix(np.eye(3), [1, 1, 1]), matrix(RIGHT, [3, 1, 1]))):
        stem = f"frame-{number:06d}"
        picture(folder / f"{stem}.color.png", 10 * number)
        depth_picture(folder / f"{stem}.depth.png", [1500, 0, 65535, 65534])
        text = "\n".join("\t ".join(f"{value:.7e}" for value in row) for row in pose)
        (folder / f"{stem}.pose.txt").write_text(text + "\n")
    return tmp_path


def test_depth_and_cameras(scenes: Path) -> None:
    data = SevenScenes(scenes)
    assert data.names() == ["chess/seq-01"]
    assert SevenScenes(scenes / "chess" / "seq-01").names() == ["seq-01"]
    sample = data.read("chess/seq-01", [0, 1])
    check_turned_right(sample)
    torch.testing.assert_close(sample.scene.depths[0, 0, :4], torch.tensor([1.5, 0.0, 0.0, 65.534]))
    assert sample.scene.depth_confidence[0, 0, :4].tolist() == [1, 0, 0, 1]
    expected = torch.tensor([[585.0, 0, 320], [0, 585, 240], [0, 0, 1]])
    torch.testing.assert_close(sample.scene.cameras.intrinsics[0], expected)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("frame-000001.pose.txt", "1 0 0 0", "pose.txt"),
        ("frame-000001.pose.txt", "inf " * 16, "not finite"),
        ("frame-000001.depth.png", "", "depth.png"),
        ("frame-000001.color.png", "", "color.png"),
    ],
)
def test_damage_is_reported_in_one_line(scenes: Path, file: str, content: str, named: str) -> None:
    (scenes / "chess" / "seq-01" / file).write_text(content)
    with refused("chess/seq-01", named):
        SevenScenes(scenes).read("chess/seq-01", [0, 1])
