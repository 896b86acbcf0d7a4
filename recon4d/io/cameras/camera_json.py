"""Readers of cameras in JSON: transforms.json of nerfstudio, instant-ngp and Blender, Record3D, Polycam, and lists.

Camera axes of transforms.json, Record3D and Polycam are those of OpenGL: x right, y up, z backward.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.errors import UserError, one_line, os_errors_as_user_errors
from recon4d.geometry import rigid, rotation_from_quaternion
from recon4d.io.cameras.camera_file import CameraFile
from recon4d.io.cameras.lenses import LENS_MODELS, RADIAL_4
from recon4d.io.cameras.stored_intrinsics import PANORAMAS, StoredIntrinsics, named_lens
from recon4d.io.checked_cameras import checked_cameras
from recon4d.io.frame_pairing import natural_order

OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""Change of camera axes: OpenGL cameras look along -z and their y axis points up."""
FOCAL_X, FOCAL_Y = ("fl_x", "fx", "focal_x", "fl", "focal"), ("fl_y", "fy", "focal_y")
"""Names of focal lengths in pixels."""
ANGLE_X, ANGLE_Y = ("camera_angle_x",), ("camera_angle_y",)
"""Names of fields of view in radians."""
DEGREES_X, DEGREES_Y = ("x_fov", "fov_x"), ("y_fov", "fov_y")
"""Names of fields of view in degrees."""
WIDTH, HEIGHT = ("w", "width", "image_width"), ("h", "height", "image_height")
MATRIX = ("intrinsics", "intrinsic_matrix", "intrinsic", "camera_intrinsics", "camera_matrix", "K")
"""Names of 3x3 matrices, or of fx, fy, cx, cy."""
NUMBERED = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
"""Names of coefficients in OpenCV's order."""
OPENCV_LISTS = ("distortion", "distortion_coefficients", "dist_coeffs")
"""Names of lists of coefficients in OpenCV's order."""
NERFSTUDIO_LIST = "distortion_params"
"""Name of a list of k1, k2, k3, k4, p1, p2."""
IMAGE_NAMES = ("file_path", "image_path", "img_name", "image", "filename")
"""Names of the name of a picture."""
FOCAL_NAMES = frozenset({*FOCAL_X, *FOCAL_Y, *ANGLE_X, *ANGLE_Y, *DEGREES_X, *DEGREES_Y, *MATRIX})
LENS_NAMES = frozenset(
    {*FOCAL_NAMES, "cx", "cy", *WIDTH, *HEIGHT, *NUMBERED, *OPENCV_LISTS, NERFSTUDIO_LIST}
    | {"camera_model", "is_fisheye", "lens_model", "camera_type"}
    | {name for _, names in LENS_MODELS.values() for name in names}
)
PERSPECTIVE_NAMES = frozenset(
    {"", "OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV"}
    | {"BROWN", "RADIAL_TANGENTIAL", "RADTAN", "PLUMB_BOB", "RATIONAL_POLYNOMIAL"}
)
"""Names of lenses whose coefficients are told by their own names."""
FISHEYE_NAMES = frozenset({"OPENCV_FISHEYE", "EQUIDISTANT", "KANNALA_BRANDT", "KB4"})
"""Names of OpenCV's fisheye lens; "FISHEYE" is one too (nerfstudio), with the coefficients k1 to k4."""


def read_camera_json(path: Path, only_poses: bool = False) -> CameraFile:
    """Read cameras from a JSON file, whose kind is recognized by its contents.

    Args:
        path: A transforms.json (`frames` with `transform_matrix`), Record3D's metadata.json (`poses`, `K`), a
            cameras.json of the data set `folder` (`frames` with `world_from_cam`) or of Gaussian splatting (a list with
            `position` and `rotation`).
        only_poses: Whether focal lengths and lenses are passed over, as those of panoramas.

    Returns:
        The cameras.

    Raises:
        UserError: If the file cannot be read, is damaged or has another content.
    """
    place, stored = f"cameras {path}", load_json(path)
    stored = _without_lenses(stored) if only_poses else stored
    if isinstance(stored, list) and stored and all(isinstance(entry, dict) and "rotation" in entry for entry in stored):
        return _read_splatting(path, stored)
    if isinstance(stored, dict) and "poses" in stored:
        return _read_record3d(path, stored)
    if isinstance(stored, dict) and "t_00" in stored:
        return read_polycam([path], only_poses)
    if not isinstance(stored, dict) or "frames" not in stored:
        raise UserError(f"{place}: it has no frames; wanted a transforms.json or another file of cameras")
    frames = stored["frames"]
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"{place}: its frames are no list, or an empty one")
    if all("world_from_cam" in frame for frame in frames):
        poses = [_pose(place, frame["world_from_cam"]) for frame in frames]
        return _camera_file(path, "cameras.json", poses, frames, stored)
    if missing := [number for number, frame in enumerate(frames) if "transform_matrix" not in frame]:
        raise UserError(f"{place}: frame {missing[0]} has no transform_matrix")
    poses = [_pose(place, frame["transform_matrix"]) @ OPENCV_FROM_OPENGL for frame in frames]
    return _camera_file(path, _kind(stored), poses, frames, stored)


def _without_lenses(stored: Any) -> Any:
    """Remove the values of lenses from JSON, at its top and in its frames."""
    if isinstance(stored, list):
        return [_without_lenses(entry) for entry in stored]
    if not isinstance(stored, dict):
        return stored
    return {
        name: _without_lenses(value) if name == "frames" else value
        for name, value in stored.items()
        if not (name in LENS_NAMES or name in _FLAGS or name.startswith("ftheta"))
    }


def _kind(stored: Mapping[str, Any]) -> str:
    """The program whose transforms.json this looks like."""
    if "aabb_scale" in stored:
        return "instant-ngp"
    return "Blender" if "camera_angle_x" in stored and "fl_x" not in stored else "nerfstudio"


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: The file, in UTF-8 with or without a byte order mark, or in UTF-16 with one.

    Returns:
        Dictionaries, lists and plain values.

    Raises:
        UserError: If the file cannot be read or is no JSON.
    """
    import json

    with os_errors_as_user_errors(f"cannot read {path}"):
        data = path.read_bytes()
    try:
        is_wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        return json.loads(data.decode("utf-16" if is_wide else "utf-8-sig"))
    except (ValueError, RecursionError, MemoryError) as error:  # also JSONDecodeError and UnicodeDecodeError
        raise UserError(f"cannot read {path} as JSON: {one_line(error)}") from error


def read_polycam(files: Sequence[Path], only_poses: bool = False) -> CameraFile:
    """Read the cameras of Polycam, one file for each picture.

    Args:
        files: JSON files with t_00 to t_23, fx, fy, cx, cy, width and height, named as their pictures.
        only_poses: Whether focal lengths and lenses are passed over.

    Returns:
        The cameras.

    Raises:
        UserError: If a file is damaged or lacks a value.
    """
    poses, frames = [], []
    for file in sorted(files, key=lambda path: natural_order(path.name)):
        place, stored = f"cameras {file}", load_json(file)
        stored = _without_lenses(stored) if only_poses else stored
        if not isinstance(stored, dict):
            raise UserError(f"{place}: it holds no object")
        rows = [[_number(place, stored, f"t_{row}{column}") for column in range(4)] for row in range(3)]
        poses.append(_pose(place, rows) @ OPENCV_FROM_OPENGL)
        frames.append({**stored, "file_path": file.stem})
    path = files[0].parent if len(files) > 1 else files[0]
    return _camera_file(path, "Polycam", poses, frames, {})


def read_intrinsics_values(place: str, values: Mapping[str, Any]) -> StoredIntrinsics | None:
    """Read focal length, principal point, size and lens in any of the spellings of this module.

    Args:
        place: The file, at the beginning of messages.
        values: Values by name; None counts as absent.

    Returns:
        The intrinsics, or None if there is no focal length.

    Raises:
        UserError: If a value is no number or impossible, or if the lens is not supported.
    """
    values = {name: value for name, value in values.items() if value is not None}
    model = _lens_name(place, values)
    found = _matrix_values(place, values)
    for name, spellings in (("focal_x", FOCAL_X), ("focal_y", FOCAL_Y), ("center_x", ("cx",)), ("center_y", ("cy",))):
        if (number := _first(place, values, spellings)) is not None:
            found[name] = number
    for name, spellings in (("angle_x", ANGLE_X), ("angle_y", ANGLE_Y)):
        if (number := _first(place, values, spellings)) is not None:
            found[name] = number
    for name, spellings in (("angle_x", DEGREES_X), ("angle_y", DEGREES_Y)):
        if name not in found and (number := _first(place, values, spellings)) is not None:
            found[name] = math.radians(number)
    lens = _lens(place, model, _coefficients(place, values))
    if not found.keys() & {"focal_x", "focal_y", "angle_x", "angle_y"}:
        if not lens.is_pinhole:
            raise UserError(f"{place}: it has lens distortion ({lens.describe()}) without a focal length")
        return None
    for name in ("focal_x", "focal_y"):
        if name in found and not found[name] > 0:
            raise UserError(f"{place}: a focal length is {found[name]:g}; wanted pixels above 0")
    for name in ("angle_x", "angle_y"):
        if name in found and not 0 < found[name] < math.pi:
            raise UserError(f"{place}: a field of view is {found[name]:g} radians; wanted more than 0, less than pi")
    return StoredIntrinsics(lens, **found, width=_side(place, values, WIDTH), height=_side(place, values, HEIGHT))


def _camera_file(
    path: Path,
    kind: str,
    poses: list[Float64[Tensor, "4 4"]],
    frames: Sequence[Mapping[str, Any]],
    shared: Mapping[str, Any],
) -> CameraFile:
    place = f"cameras {path}"
    stacked = checked_cameras(place, torch.stack(poses), allow_unknown=True)
    names = [next((frame[key] for key in IMAGE_NAMES if key in frame), None) for frame in frames]
    if any(name is not None and not isinstance(name, str) for name in names):
        raise UserError(f"{place}: the name of a picture is no text")
    intrinsics = tuple(read_intrinsics_values(place, values) for values in _lens_values(frames, shared))
    return CameraFile(
        path,
        kind,
        stacked,
        None if None in names else tuple(map(str, names)),
        intrinsics=intrinsics if any(one is not None for one in intrinsics) else None,
    )


def _lens_values(frames: Sequence[Mapping[str, Any]], shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The values of each frame's lens: its own, else the shared ones, else those of the first frame that has a lens."""

    def of(values: Mapping[str, Any]) -> dict[str, Any]:
        # "ftheta_p0" and the like name lenses too.
        return {
            name: value
            for name, value in values.items()
            if value is not None and (name in LENS_NAMES or name.startswith("ftheta") or name in _FLAGS)
        }

    own, common = [of(frame) for frame in frames], of(shared)
    if not common.keys() & FOCAL_NAMES:
        first = next((values for values in own if values.keys() & FOCAL_NAMES), {})
        common = {**first, **common}
    merged = []
    for values in own:
        # A frame's own focal length replaces the shared one in whatever way that is stated.
        replaced = FOCAL_NAMES if values.keys() & FOCAL_NAMES else frozenset()
        replaced |= {"cx", "cy"} if values.keys() & set(MATRIX) else frozenset()
        merged.append({**{name: value for name, value in common.items() if name not in replaced}, **values})
    return merged


_FLAGS = frozenset({"latlong", "equirectangular", "orthographic", "is_equirectangular", "panorama"})


def _lens_name(place: str, values: Mapping[str, Any]) -> str:
    """The name of the lens model in capitals, "" if none is given; panoramas and unknown models are refused."""
    for flag in _FLAGS:
        if values.get(flag):
            named_lens(place, "EQUIRECTANGULAR" if flag != "orthographic" else "ORTHOGRAPHIC", ())
    if any(name.startswith("ftheta") for name in values):
        raise UserError(f"{place}: an f-theta lens is not supported; undistort the pictures first")
    model = next((values[key] for key in ("camera_model", "lens_model", "camera_type") if key in values), "")
    if not isinstance(model, str):
        raise UserError(f"{place}: the camera model is {model!r}; wanted a name such as OPENCV")
    model = model.strip().upper().replace("-", "_").replace(" ", "_")
    is_fisheye = values.get("is_fisheye", False)
    if isinstance(is_fisheye, str):
        is_fisheye = is_fisheye.strip().lower() in ("true", "yes", "1")
    if model in FISHEYE_NAMES or model == "FISHEYE" or (is_fisheye and model in PERSPECTIVE_NAMES):
        return "OPENCV_FISHEYE"
    if model in PERSPECTIVE_NAMES:
        return "FULL_OPENCV" if model in ("FULL_OPENCV", "RATIONAL_POLYNOMIAL") else "OPENCV"
    if model not in LENS_MODELS or any(name in model for name in PANORAMAS):
        named_lens(place, model, ())
    return model


def _lens(place: str, model: str, given: Mapping[str, float]) -> Any:
    """The lens of a model from coefficients by name."""
    used = {name for name, value in given.items() if value}
    if model == "OPENCV":
        if used & {"k5", "k6"}:
            model = "FULL_OPENCV"
        elif "k4" in used:
            model = RADIAL_4
        elif "k3" in used:
            model = "FULL_OPENCV"
    names = LENS_MODELS[model][1]
    if unknown := sorted(used - set(names)):
        raise UserError(f"{place}: a {model} lens has no coefficient {unknown[0]}; it has {', '.join(names) or 'none'}")
    return named_lens(place, model, tuple(given.get(name, 0.0) for name in names))


def _coefficients(place: str, values: Mapping[str, Any]) -> dict[str, float]:
    names = sorted({name for _, names in LENS_MODELS.values() for name in names} | set(NUMBERED))
    found = {name: _number(place, values, name) for name in names if name in values}
    for key in (*OPENCV_LISTS, NERFSTUDIO_LIST):
        if key in values:
            order = ("k1", "k2", "k3", "k4", "p1", "p2") if key == NERFSTUDIO_LIST else NUMBERED
            numbers = _array(place, key, values[key]).reshape(-1).tolist()
            if len(numbers) > len(order):
                raise UserError(f"{place}: {key} has {len(numbers)} numbers; wanted at most {', '.join(order)}")
            found.update(zip(order, numbers, strict=False))
    return found


def _matrix_values(place: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Focal lengths and principal point from a 3x3 or 4x4 matrix, four numbers, or an object with their names."""
    key = next((key for key in MATRIX if key in values), None)
    if key is None:
        return {}
    if isinstance(values[key], Mapping):
        nested = read_intrinsics_values(place, values[key])
        names = ("focal_x", "focal_y", "center_x", "center_y")
        given = {} if nested is None else {name: getattr(nested, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}
    matrix = _array(place, key, values[key])
    if matrix.size == 4:
        return dict(zip(("focal_x", "focal_y", "center_x", "center_y"), matrix.reshape(-1).tolist(), strict=True))
    if matrix.size not in (9, 16):
        raise UserError(f"{place}: {key} has {matrix.size} numbers; wanted a 3x3 matrix or fx, fy, cx, cy")
    side = 3 if matrix.size == 9 else 4
    matrix = matrix.reshape(side, side)[:3, :3]
    if not matrix[:2, 2].any() and matrix[2, :2].any():
        matrix = matrix.T  # stored by columns, as by Apple's frameworks
    if matrix[2].tolist() != [0, 0, 1] or matrix[1, 0] != 0 or abs(matrix[0, 1]) > 1e-3 * abs(matrix[0, 0]):
        raise UserError(f"{place}: {key} is not the matrix of a pinhole camera: {matrix.tolist()}")
    return {
        "focal_x": float(matrix[0, 0]),
        "focal_y": float(matrix[1, 1]),
        "center_x": float(matrix[0, 2]),
        "center_y": float(matrix[1, 2]),
    }


def _read_record3d(path: Path, stored: Mapping[str, Any]) -> CameraFile:
    """Record3D: poses of qx, qy, qz, qw, px, py, pz, one for each picture by number, and K by columns."""
    place = f"cameras {path}"
    poses = _array(place, "poses", stored["poses"])
    if poses.ndim != 2 or poses.shape[1] != 7:
        raise UserError(f"{place}: its poses have shape {poses.shape}; wanted rows of qx qy qz qw px py pz")
    matrices = poses_from_rows(place, torch.from_numpy(poses)[:, [3, 0, 1, 2]], torch.from_numpy(poses)[:, 4:])
    each = stored.get("perFrameIntrinsicCoeffs")
    if each is not None and (not isinstance(each, list) or len(each) != len(poses)):
        raise UserError(f"{place}: perFrameIntrinsicCoeffs has another length than poses")
    frames: list[dict[str, Any]] = [{} for _ in poses]
    if each is not None:
        frames = [{"intrinsics": list(row)[:4] if isinstance(row, list) else row} for row in each]
    for number, frame in enumerate(frames):
        frame["file_path"] = str(number)
    return _camera_file(path, "Record3D", list(matrices @ OPENCV_FROM_OPENGL), frames, stored)


def _read_splatting(path: Path, stored: Sequence[Mapping[str, Any]]) -> CameraFile:
    """Cameras.json of Gaussian splatting: position and rotation of world_from_cam in OpenCV axes."""
    place, poses = f"cameras {path}", []
    for entry in stored:
        rotation = _array(place, "rotation", entry["rotation"])
        position = _array(place, "position", entry.get("position"))
        if rotation.shape != (3, 3) or position.shape != (3,):
            raise UserError(f"{place}: a camera has no rotation of 3x3 and position of 3 numbers")
        poses.append(_pose(place, np.concatenate([rotation, position[:, None]], axis=1).tolist()))
    return _camera_file(path, "cameras.json of Gaussian splatting", poses, stored, {})


def poses_from_rows(
    place: str, quaternions: Float64[Tensor, "camera 4"], centers: Float64[Tensor, "camera 3"]
) -> Float64[Tensor, "camera 4 4"]:
    """Build poses from quaternions and camera centers.

    Args:
        place: The file, at the beginning of messages.
        quaternions: Rotations as qw, qx, qy, qz.
        centers: Camera centers in the world.

    Returns:
        World from camera.

    Raises:
        UserError: If a quaternion is not of length 1.
    """
    norms = quaternions.norm(dim=-1)
    if not ((norms > 0.5) & (norms < 2)).all():
        wrong = int((~((norms > 0.5) & (norms < 2))).nonzero()[0, 0])
        raise UserError(f"{place}: camera {wrong} has a quaternion that is not of length 1")
    return rigid(rotation_from_quaternion(quaternions), centers)


def _pose(place: str, values: Any) -> Float64[Tensor, "4 4"]:
    """A pose from 4x4 or 3x4 numbers, nested or flat; NaN for null."""
    if values is None:
        return torch.full((4, 4), torch.nan, dtype=torch.float64)
    matrix = _array(place, "transform_matrix", values)
    if matrix.shape not in ((4, 4), (3, 4), (16,), (12,)):
        raise UserError(f"{place}: a transform_matrix has shape {matrix.shape}; wanted (4, 4) or (3, 4)")
    pose = np.eye(4)
    pose[: matrix.size // 4] = matrix.reshape(-1, 4)
    return torch.from_numpy(pose)


def _array(place: str, name: str, values: Any) -> np.ndarray:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{place}: {name} is no array of numbers") from error
    if not np.isfinite(array).all() or (array.size and np.abs(array).max() > 3e38):
        raise UserError(f"{place}: {name} has numbers that are not finite or too large")
    return array


def _number(place: str, values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(f"{place}: {name} is {str(value)[:40]}; wanted a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{place}: {name} is {str(value)[:40]}; wanted a number") from error
    if not abs(number) < 3e38:
        raise UserError(f"{place}: {name} is {str(value)[:40]}; wanted a finite number")
    return number


def _first(place: str, values: Mapping[str, Any], names: Sequence[str]) -> float | None:
    return next((_number(place, values, name) for name in names if name in values), None)


def _side(place: str, values: Mapping[str, Any], names: Sequence[str]) -> int | None:
    side = _first(place, values, names)
    if side is not None and not (side == int(side) and 0 < side < 2**31):
        raise UserError(f"{place}: a picture has a side of {side:g} pixels; wanted a whole number above 0")
    return None if side is None else int(side)
