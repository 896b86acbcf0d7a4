"""Given intrinsics: of pictures of another size, in the spellings of camera files, or impossible."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recon4d.errors import UserError
from recon4d.io import read_clip
from recon4d.io.cameras.intrinsics import read_intrinsics
from recon4d.records import Clip


def clip_of(height: int = 40, width: int = 60) -> Clip:
    return Clip(torch.zeros(2, 3, height, width, dtype=torch.uint8), torch.arange(2.0))


def pinhole(given: str, clip: Clip, size: tuple[int, int] | None = None) -> list[float]:
    matrix = read_intrinsics(given, clip, size).matrices[1]
    return [round(float(matrix[row, column]), 3) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2))]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"fx": 100, "fy": 104, "cx": 62, "cy": 38, "w": 120, "h": 80}, [50, 52, 31, 19]),
        ({"fl_x": 100, "fl_y": 104, "cx": 62, "cy": 38, "w": 120, "h": 80}, [50, 52, 31, 19]),
        ({"camera_angle_x": 2 * math.atan(0.5)}, [60, 60, 30, 20]),
        ({"camera_matrix": [[50, 0, 31], [0, 52, 19], [0, 0, 1]]}, [50, 52, 31, 19]),
    ],
)
def test_objects_with_a_size(tmp_path: Path, values: dict, wanted: list[float]) -> None:
    (tmp_path / "lens.json").write_text(json.dumps(values), encoding="utf-8-sig")
    assert pinhole(str(tmp_path / "lens.json"), clip_of()) == wanted


def test_objects_with_a_lens(tmp_path: Path) -> None:
    (tmp_path / "lens.json").write_text(json.dumps({"fl_x": 50, "is_fisheye": True, "k1": 0.1}))
    lens = read_intrinsics(str(tmp_path / "lens.json"), clip_of()).lens
    assert (lens.model, lens.coefficients) == ("OPENCV_FISHEYE", (0.1, 0, 0, 0))


def test_a_given_size_scales() -> None:
    assert pinhole("200,208,124,76", clip_of(), (160, 240)) == [50, 52, 31, 19]
    assert pinhole("50,52,31,19", clip_of()) == [50, 52, 31, 19]
    assert "240 x 160" in read_intrinsics("200,208,124,76", clip_of(), (160, 240)).report[0]
    with pytest.raises(UserError, match="240 x 240 pixels, and the clip's are 60 x 40: another aspect ratio"):
        pinhole("200,208,124,76", clip_of(), (240, 240))


@pytest.mark.parametrize(("orientation", "wanted"), [(6, [52, 50, 21, 31]), (8, [52, 50, 19, 29])])
def test_the_size_of_the_stored_pictures_turns_with_them(tmp_path: Path, orientation: int, wanted: list[float]) -> None:
    """Stored at 60 x 40 with its center at (31, 19); orientation 6 shows (x, y) at (40 - y, x), 8 at (y, 60 - x)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number in range(2):
        Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png", exif=exif)
    clip = read_clip(tmp_path)
    assert clip.size == (60, 40)
    assert pinhole("100,104,62,38", clip, (80, 120)) == wanted
    # Without a size, intrinsics are those of the upright pictures.
    assert pinhole("100,104,62,38", clip) == [100, 104, 62, 38]


def test_a_principal_point_outside_is_warned_about() -> None:
    (line,) = read_intrinsics("220,220,128,96", clip_of()).report
    assert line.startswith(
        "warning: intrinsics: the principal point (128.0, 96.0) lies outside of the picture of 60 x 40"
    )


@pytest.mark.parametrize("text", ["1e30,50,30,20", "50,0,30,20", "50,-1,30,20", "50,50,1e30,20", "50,50,inf,20"])
def test_impossible_values(text: str) -> None:
    with pytest.raises(UserError, match="as a pinhole has"):
        read_intrinsics(text, clip_of())


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" + "1" * 400 + ",1,1,1]", "[" + "1" * 9000 + "]", "\x00", '{"fx": 3}']
)
def test_damaged_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "lens.json").write_text(text)
    with pytest.raises(UserError, match=r"lens\.json") as caught:
        read_intrinsics(str(tmp_path / "lens.json"), clip_of())
    assert "\n" not in str(caught.value)
