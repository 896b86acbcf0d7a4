"""Tests of the reader of Sintel."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from turned_cameras import HEIGHT, RIGHT, WIDTH, check_turned_right, matrix, picture, refused

from recon4d.datasets.readers.sintel import Sintel
from recon4d.errors import UserError


@pytest.fixture
def film(tmp_path: Path) -> Path:
    training = tmp_path / "training"
    for folder in ("depth", "camdata_left"):
        (training / folder / "alley_2").mkdir(parents=True)
    for number, pose in enumerate((matrix(np.eye(3), [1, 1, 1]), matrix(RIGHT, [3, 1, 1]))):
        stem = f"frame_{number + 1:04d}"
        picture(training / "final" / "alley_2" / f"{stem}.png", 10 * number)
        depths = [1e11, 2500.0, 999.0, *([5.0] * (HEIGHT * WIDTH - 3))]
        header = struct.pack("<fii", 202021.25, WIDTH, HEIGHT)
        (training / "depth" / "alley_2" / f"{stem}.dpt").write_bytes(header + struct.pack(f"<{len(depths)}f", *depths))
        values = [8.0 + number, 0, 2.5, 0, 8.0, 1.5, 0, 0, 1, *np.linalg.inv(pose)[:3].ravel()]
        (training / "camdata_left" / "alley_2" / f"{stem}.cam").write_bytes(struct.pack("<f21d", 202021.25, *values))
    return tmp_path


def test_intrinsics_are_per_frame_and_the_sky_is_unknown(film: Path) -> None:
    data = Sintel(film)
    assert data.names() == ["alley_2"]
    assert data.num_frames("alley_2") == 2
    sample = data.read("alley_2", [0, 1])
    check_turned_right(sample)
    # (w - 1) / 2 with the first pixel center at 0 is w / 2 with the first pixel center at 0.5.
    expected = torch.tensor([[9.0, 0, WIDTH / 2], [0, 8.0, HEIGHT / 2], [0, 0, 1]])
    torch.testing.assert_close(sample.scene.cameras.intrinsics[1], expected)
    assert sample.scene.depths[0, 0, :4].tolist() == [0, 0, 999, 5]
    assert sample.scene.depth_confidence[0, 0, :4].tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match="clean is not a folder"):
        Sintel(film, rendering="clean")


@pytest.mark.parametrize("file", ["camdata_left/alley_2/frame_0002.cam", "depth/alley_2/frame_0002.dpt"])
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda data: struct.pack("<f", 202021.0) + data[4:], "202021.25"),
        (lambda data: data[:-1], "bytes"),
        (lambda data: data[:4], "frame_0002"),
        (lambda data: b"", "202021.25"),
    ],
)
def test_damage_is_reported_in_one_line(film: Path, file: str, damage, named: str) -> None:
    path = film / "training" / file
    path.write_bytes(damage(path.read_bytes()))
    with refused("alley_2", named):
        Sintel(film).read("alley_2", [0, 1])
