"""Cameras in JSON: every spelling of the lens, hand-computed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from named_clips import named_clip

from recon4d.errors import UserError
from recon4d.io import read_camera_file
from recon4d.io.cameras.camera_file import FrameCameras
from recon4d.records import Clip

EYE = np.eye(4).tolist()
ANGLE = 2 * math.atan(0.5)
"""Field of view of a picture that is as wide as its focal length."""


@pytest.fixture
def clip() -> Clip:
    """Return three frames of 60 x 40 pixels."""
    return named_clip("shoot/images", ("0.png", "1.png", "2.png"), size=(40, 60))


def read(folder: Path, clip: Clip, shared: dict[str, Any], *each: dict[str, Any]) -> FrameCameras:
    """Write and read a transforms.json with values shared by all frames and of each frame."""
    frames = [
        {"file_path": f"images/{i}.png", "transform_matrix": EYE, **(each[i] if i < len(each) else {})}
        for i in range(3)
    ]
    (folder / "transforms.json").write_text(json.dumps({**shared, "frames": frames}))
    return read_camera_file(folder / "transforms.json").for_clip(clip)


def pinhole(cameras: FrameCameras, frame: int = 0) -> list[float]:
    return [round(float(cameras.intrinsics[frame][row, column]), 3) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2))]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        # nerfstudio
        ({"fl_x": 50, "fl_y": 52, "cx": 31, "cy": 19, "w": 60, "h": 40}, [50, 52, 31, 19]),
        ({"fl_x": 50, "fl_y": 52, "cx": 31, "cy": 19}, [50, 52, 31, 19]),
        ({"fl_x": 50}, [50, 50, 30, 20]),
        ({"fl_y": 52}, [52, 52, 30, 20]),
        ({"fl_x": 100, "fl_y": 104, "cx": 62, "cy": 38, "w": 120, "h": 80}, [50, 52, 31, 19]),
        ({"fl_x": 100, "w": 120}, [50, 50, 30, 20]),
        ({"fl_x": "100", "h": 80.0}, [50, 50, 30, 20]),
        ({"fl_x": 50, "k1": None, "p1": None, "fl_y": None, "w": None, "camera_model": None}, [50, 50, 30, 20]),
        # Blender
        ({"camera_angle_x": ANGLE}, [60, 60, 30, 20]),
        ({"camera_angle_x": ANGLE, "w": 600, "h": 400}, [60, 60, 30, 20]),
        ({"camera_angle_y": ANGLE}, [40, 40, 30, 20]),
        ({"camera_angle_x": ANGLE, "camera_angle_y": ANGLE}, [60, 40, 30, 20]),
        # instant-ngp
        ({"x_fov": 90}, [30, 30, 30, 20]),
        ({"y_fov": 90}, [20, 20, 30, 20]),
        ({"x_fov": 90, "y_fov": 90, "cx": 31, "cy": 19, "aabb_scale": 16}, [30, 20, 31, 19]),
        ({"fl_x": 50, "camera_angle_x": 0.1, "x_fov": 3}, [50, 50, 30, 20]),
        # matrices
        ({"intrinsics": [[50, 0, 31], [0, 52, 19], [0, 0, 1]]}, [50, 52, 31, 19]),
        ({"intrinsics": [50, 0, 31, 0, 52, 19, 0, 0, 1]}, [50, 52, 31, 19]),
        ({"K": [50, 0, 0, 0, 52, 0, 31, 19, 1]}, [50, 52, 31, 19]),
        ({"intrinsic_matrix": [[50, 0, 31, 0], [0, 52, 19, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}, [50, 52, 31, 19]),
        ({"intrinsics": [50, 52, 31, 19]}, [50, 52, 31, 19]),
        ({"intrinsics": {"fx": 50, "fy": 52, "cx": 31, "cy": 19}}, [50, 52, 31, 19]),
        # Polycam and others
        ({"fx": 100, "fy": 104, "cx": 62, "cy": 38, "width": 120, "height": 80}, [50, 52, 31, 19]),
    ],
)
def test_a_lens_is_read_from_shared_values_or_each_frame_or_the_first(
    tmp_path: Path, clip: Clip, values: dict[str, Any], wanted: list[float]
) -> None:
    for cameras in (
        read(tmp_path, clip, values),
        read(tmp_path, clip, {}, values, values, values),
        read(tmp_path, clip, {}, values),
    ):
        assert [pinhole(cameras, frame) for frame in range(3)] == [wanted] * 3
        assert "lens PINHOLE" in cameras.report[0]


def test_frames_override_shared_values(tmp_path: Path, clip: Clip) -> None:
    shared = {"fl_x": 50, "fl_y": 52, "cx": 31, "cy": 19, "w": 60, "h": 40}
    cameras = read(
        tmp_path, clip, shared, {}, {"camera_angle_x": ANGLE}, {"intrinsics": [[70, 0, 29], [0, 71, 21], [0, 0, 1]]}
    )
    assert [pinhole(cameras, frame) for frame in range(3)] == [[50, 52, 31, 19], [60, 60, 31, 19], [70, 71, 29, 21]]


@pytest.mark.parametrize(
    ("values", "model", "coefficients"),
    [
        ({"k1": 0.1, "k2": 0.2, "p1": 0.3, "p2": 0.4}, "OPENCV", (0.1, 0.2, 0.3, 0.4)),
        ({"k1": 0.1, "k3": 0.3}, "FULL_OPENCV", (0.1, 0, 0, 0, 0.3, 0, 0, 0)),
        ({"k1": 0.1, "k4": 0.4}, "OPENCV with k4", (0.1, 0, 0, 0, 0, 0.4)),
        ({"k1": 0.1, "k4": 0.4, "k5": 0.5}, "FULL_OPENCV", (0.1, 0, 0, 0, 0, 0.4, 0.5, 0)),
        ({"k1": 0.1, "k4": 0.4, "camera_model": "FULL_OPENCV"}, "FULL_OPENCV", (0.1, 0, 0, 0, 0, 0.4, 0, 0)),
        ({"k1": 0.1, "is_fisheye": True}, "OPENCV_FISHEYE", (0.1, 0, 0, 0)),
        ({"is_fisheye": True}, "OPENCV_FISHEYE", (0, 0, 0, 0)),
        ({"is_fisheye": "true", "k4": 0.4}, "OPENCV_FISHEYE", (0, 0, 0, 0.4)),
        (
            {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k2": 0.2, "k3": 0.3, "k4": 0.4},
            "OPENCV_FISHEYE",
            (0.1, 0.2, 0.3, 0.4),
        ),
        ({"camera_model": "fisheye"}, "OPENCV_FISHEYE", (0, 0, 0, 0)),
        ({"camera_model": "equidistant"}, "OPENCV_FISHEYE", (0, 0, 0, 0)),
        ({"camera_model": "SIMPLE_RADIAL_FISHEYE", "k1": 0.1}, "SIMPLE_RADIAL_FISHEYE", (0.1,)),
        ({"camera_model": "FOV", "omega": 0.9}, "FOV", (0.9,)),
        ({"camera_model": "SIMPLE_RADIAL", "k1": 0.1}, "OPENCV", (0.1, 0, 0, 0)),
        ({"distortion_params": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, "OPENCV with k4", (0.1, 0.2, 0.5, 0.6, 0.3, 0.4)),
        ({"distortion": [0.1, 0.2, 0.3, 0.4, 0.5]}, "FULL_OPENCV", (0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0)),
    ],
)
def test_distortion_is_read(
    tmp_path: Path, clip: Clip, values: dict[str, Any], model: str, coefficients: tuple
) -> None:
    cameras = read(tmp_path, clip, {"fl_x": 50, **values})
    assert {(lens.model, lens.coefficients) for lens in cameras.lenses} == {(model, coefficients)}
    assert cameras.report[0].endswith("undistorted")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"camera_model": "EQUIRECTANGULAR"}, "360 degree panoramas"),
        ({"camera_model": "equirectangular", "fl_x": 3}, "360 degree panoramas"),
        ({"camera_type": "OMNIDIRECTIONAL_STEREO_L"}, "360 degree panoramas"),
        ({"latlong": True}, "360 degree panoramas"),
        ({"equirectangular": True, "fl_x": 50}, "360 degree panoramas"),
        ({"ftheta_p0": 1.0, "fl_x": 50}, "f-theta"),
        ({"camera_model": "FISHEYE624", "fl_x": 50}, "unsupported model FISHEYE624"),
        ({"camera_model": 7, "fl_x": 50}, "camera model is 7"),
        ({"is_fisheye": True, "fl_x": 50, "p1": 0.1}, "OPENCV_FISHEYE lens has no coefficient p1"),
        ({"k1": 0.1}, "without a focal length"),
        ({"is_fisheye": True}, "without a focal length"),
        ({"camera_angle_x": 0}, "field of view is 0 radians"),
        ({"camera_angle_x": 4}, "field of view is 4 radians"),
        ({"x_fov": 180}, "field of view is 3.14159 radians"),
        ({"fl_x": 0}, "focal length is 0"),
        ({"fl_x": -3}, "focal length is -3"),
        ({"fl_x": 10**400}, "wanted a number"),
        ({"fl_x": "wide"}, "fl_x is wide; wanted a number"),
        ({"fl_x": True}, "fl_x is True; wanted a number"),
        ({"fl_x": [50]}, "wanted a number"),
        ({"fl_x": 50, "w": 0}, "side of 0 pixels"),
        ({"fl_x": 50, "w": 60.5}, "side of 60.5 pixels"),
        ({"fl_x": 50, "w": 60, "h": 60}, "60 x 60 pixels, and the clip's 60 x 40: another aspect"),
        ({"fl_x": 50, "k1": 1e30}, "distortion coefficients"),
        ({"fl_x": 1e30}, "focal lengths are 1e\\+30"),
        ({"fl_x": 50, "cx": 1e30}, "not those of a pinhole"),
        ({"intrinsics": [[50, 0, 31], [9, 52, 19], [0, 0, 1]]}, "not the matrix of a pinhole"),
        ({"intrinsics": [1, 2]}, "intrinsics has 2 numbers"),
        ({"intrinsics": "x"}, "no array of numbers"),
        ({"fl_x": 50, "distortion": [0.1] * 9}, "distortion has 9 numbers"),
    ],
)
def test_impossible_lenses_are_refused_in_one_line(
    tmp_path: Path, clip: Clip, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, clip, values)
    assert "transforms.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "matrix",
    [
        [[0, 0, -1, -2], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]],
        [[0, 0, -1, -2], [0, 1, 0, 0], [1, 0, 0, 0]],
        [0, 0, -1, -2, 0, 1, 0, 0, 1, 0, 0, 0],
        [0, 0, -1, -2, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1],
    ],
)
def test_matrices_of_three_or_four_rows(tmp_path: Path, clip: Clip, matrix: list) -> None:
    """The second camera is at x = -2 and looks along the world's +x, to the right of the first."""
    cameras = read(tmp_path, clip, {}, {}, {"transform_matrix": matrix})
    torch.testing.assert_close(cameras.world_from_cam[1] @ torch.tensor([0.0, 0, 1, 0]), torch.tensor([1.0, 0, 0, 0]))
    torch.testing.assert_close(cameras.world_from_cam[1, :3, 3], torch.tensor([-2.0, 0, 0]))
    assert cameras.intrinsics is None
    assert "no intrinsics in it" in cameras.report[0]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[2]], "shape"),
        ("x", "no array of numbers"),
        ((2 * np.eye(4)).tolist(), "not a rotation"),
        (np.diag([1, 1, -1, 1]).tolist(), "not a rotation"),
        ([[1, 0, 0, 1e30], [0, 1, 0, 0], [0, 0, 1, 0]], "1e\\+30 units"),
        ([[1, 0, 0, float("nan")], [0, 1, 0, 0], [0, 0, 1, 0]], "not finite"),
    ],
)
def test_impossible_matrices_are_refused(tmp_path: Path, clip: Clip, matrix: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, clip, {}, {}, {"transform_matrix": matrix})


def test_a_frame_whose_matrix_is_null_has_no_camera(tmp_path: Path, clip: Clip) -> None:
    cameras = read(tmp_path, clip, {"fl_x": 50}, {"transform_matrix": None})
    assert cameras.world_from_cam[0].isnan().all()
    assert torch.equal(cameras.world_from_cam[1], torch.eye(4))
    assert "2 of 3 pictures" in cameras.report[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path: Path, clip: Clip, encoding: str) -> None:
    read(tmp_path, clip, {"fl_x": 50})
    file = tmp_path / "transforms.json"
    file.write_text(file.read_text(), encoding=encoding)
    for path in (file, tmp_path):
        assert pinhole(read_camera_file(path).for_clip(clip)) == [50, 50, 30, 20]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "as JSON"),
        ("[" * 100_000, "as JSON"),
        ("{}", "has no frames"),
        ('{"frames": {}}', "no list"),
        ('{"frames": [1]}', "no list"),
        ('{"frames": [{"file_path": "0.png"}]}', "frame 0 has no transform_matrix"),
        ('{"frames": [{"file_path": 3, "transform_matrix": null}]}', "name of a picture is no text"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_camera_file(tmp_path / "transforms.json")
    assert "transforms.json" in str(caught.value)


def test_record3d(tmp_path: Path, clip: Clip) -> None:
    """K is stored by columns, and poses as qx qy qz qw px py pz of OpenGL cameras."""
    half = math.sqrt(0.5)
    poses = [[0, 0, 0, 1, 0, 0, 0], [0, -half, 0, half, 1, 2, 3], [0, 0, 0, 1, 0, 0, -1]]
    stored = {"w": 120, "h": 80, "K": [100, 0, 0, 0, 104, 0, 62, 38, 1], "fps": 60, "poses": poses}
    (tmp_path / "metadata.json").write_text(json.dumps(stored))
    cameras = read_camera_file(tmp_path).for_clip(clip)
    assert pinhole(cameras) == [50, 52, 31, 19]
    assert "(Record3D)" in cameras.report[0]
    # A quarter turn to the right about the axis that points up: OpenGL's -z becomes +x.
    torch.testing.assert_close(cameras.world_from_cam[1, :3, 2], torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)
    # (1, 2, 3) of OpenGL is (1, -2, -3) of OpenCV.
    torch.testing.assert_close(cameras.world_from_cam[1, :3, 3], torch.tensor([1.0, -2, -3]))
    stored["perFrameIntrinsicCoeffs"] = [[100, 104, 62, 38], [110, 104, 62, 38], [120, 104, 62, 38]]
    (tmp_path / "metadata.json").write_text(json.dumps(stored))
    assert [pinhole(read_camera_file(tmp_path).for_clip(clip), frame)[0] for frame in range(3)] == [50, 55, 60]


def test_polycam(tmp_path: Path, clip: Clip) -> None:
    folder = tmp_path / "keyframes" / "corrected_cameras"
    folder.mkdir(parents=True)
    for number in range(3):
        matrix = {f"t_{row}{column}": float(row == column) for row in range(3) for column in range(4)}
        lens = {"fx": 100 + 10 * number, "fy": 104, "cx": 62, "cy": 38, "width": 120, "height": 80}
        (folder / f"{number}.json").write_text(json.dumps({**matrix, **lens, "t_03": float(number)}))
    for path in (tmp_path, folder):
        cameras = read_camera_file(path).for_clip(clip)
        assert [pinhole(cameras, frame) for frame in (0, 2)] == [[50, 52, 31, 19], [60, 52, 31, 19]]
        assert cameras.world_from_cam[:, 0, 3].tolist() == [0, 1, 2]


def test_gaussian_splatting(tmp_path: Path, clip: Clip) -> None:
    right = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    entries = [
        {
            "id": i,
            "img_name": str(i),
            "width": 120,
            "height": 80,
            "position": [i, 0, 0],
            "rotation": right,
            "fx": 100,
            "fy": 104,
        }
        for i in range(3)
    ]
    (tmp_path / "cameras.json").write_text(json.dumps(entries))
    cameras = read_camera_file(tmp_path).for_clip(clip)
    assert pinhole(cameras) == [50, 52, 30, 20]
    torch.testing.assert_close(cameras.world_from_cam[:, 2, 3], torch.tensor([0.0, 1, 2]))


def test_the_splits_of_blender_are_read_together(tmp_path: Path, clip: Clip) -> None:
    """Pictures of the same names in train/ and test/ have their own cameras."""
    for number, split in enumerate(("train", "test")):
        frames = [
            {
                "file_path": f"./{split}/{i}",
                "transform_matrix": [[1, 0, 0, (1 + number) * i], [0, 1, 0, 0], [0, 0, 1, 0]],
            }
            for i in range(3)
        ]
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": ANGLE, "frames": frames}))
    for split, step in (("train", 1), ("test", 2)):
        names = ("0.png", "1.png", "2.png")
        cameras = read_camera_file(tmp_path).for_clip(named_clip(f"scene/{split}", names, size=(40, 60)))
        assert cameras.world_from_cam[:, 0, 3].tolist() == [0, step, 2 * step]
        assert pinhole(cameras) == [60, 60, 30, 20]
