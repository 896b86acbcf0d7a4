"""The place and the lens of a camera on a body: the sensor.yaml beside the pictures of EuRoC and TUM-VI."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from recon4d.errors import DataError, UserError, one_line, os_errors_as_user_errors
from recon4d.io.cameras.stored_intrinsics import StoredIntrinsics, named_lens
from recon4d.io.checked_cameras import checked_cameras
from recon4d.io.checked_values import parse_numbers

SENSOR_FILE = "sensor.yaml"
LENSES = {"radial-tangential": "OPENCV", "radtan": "OPENCV", "equidistant": "OPENCV_FISHEYE", "none": "PINHOLE"}
"""Lens models by their names in the file."""


@dataclass(frozen=True)
class BodyCamera:
    """A camera on a body."""

    path: Path
    """The file that says so."""
    body_from_cam: Float64[Tensor, "4 4"]
    """Pose of the camera on the body, of shape (4, 4)."""
    intrinsics: StoredIntrinsics | None
    """Its intrinsics; None if the file has none."""


def read_body_camera(pictures: Path) -> BodyCamera | None:
    """Read the sensor.yaml in a folder of pictures or beside it.

    Args:
        pictures: The folder of the pictures, such as ``mav0/cam0/data``.

    Returns:
        The camera, or None if there is no such file.

    Raises:
        UserError: If the file is damaged or lacks the pose of the camera.
    """
    path = next((place / SENSOR_FILE for place in (pictures, pictures.parent) if (place / SENSOR_FILE).is_file()), None)
    if path is None:
        return None
    import yaml

    with os_errors_as_user_errors(f"cannot read {path}"):
        data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig").replace("%YAML:1.0", "").replace("!!opencv-matrix", "")
        stored = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path} as YAML: {one_line(error)}") from error
    if not isinstance(stored, Mapping):
        raise UserError(f"cameras {path}: it holds no object")
    try:
        return _parse(path, stored)
    except DataError as error:
        raise UserError(f"cameras {path}: {error.file} {error.reason}") from error


def _parse(path: Path, stored: Mapping[str, Any]) -> BodyCamera:
    place, matrix = f"cameras {path}", stored.get("T_BS", stored.get("T_BC"))
    values = matrix.get("data") if isinstance(matrix, Mapping) else matrix
    body_from_cam = parse_numbers(path.parent.name, "T_BS", values, (16,)).reshape(1, 4, 4)
    pose = checked_cameras(place, body_from_cam)[0]
    if "intrinsics" not in stored:
        return BodyCamera(path, pose, None)
    fx, fy, cx, cy = parse_numbers(path.parent.name, "intrinsics", stored["intrinsics"], (4,)).tolist()
    width, height = parse_numbers(path.parent.name, "resolution", stored.get("resolution"), (2,)).tolist()
    model = LENSES.get(str(stored.get("distortion_model", "none")).lower())
    if model is None or stored.get("camera_model", "pinhole") != "pinhole" or min(width, height) < 1:
        raise UserError(f"{place}: wanted a pinhole camera with one of the lenses {', '.join(LENSES)}")
    given = stored.get("distortion_coefficients", [])
    coefficients = parse_numbers(path.parent.name, "distortion_coefficients", given, (None,)).tolist()
    lens = named_lens(place, model, () if model == "PINHOLE" else tuple(coefficients))
    # The center of OpenCV's first pixel is (0, 0).
    intrinsics = StoredIntrinsics(
        lens, fx, fy, center_x=cx + 0.5, center_y=cy + 0.5, width=int(width), height=int(height)
    )
    return BodyCamera(path, pose, intrinsics)
