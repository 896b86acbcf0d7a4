"""Readers of poses without intrinsics: TUM, CSV with a header (EuRoC), KITTI, 4x4 text, NumPy arrays, LLFF.

Poses are world_from_cam in OpenCV axes, except in LLFF's files.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.errors import UserError, one_line, os_errors_as_user_errors
from recon4d.io.cameras.camera_file import CameraFile
from recon4d.io.cameras.camera_json import poses_from_rows
from recon4d.io.cameras.lenses import Lens
from recon4d.io.cameras.pairing import seconds_per_unit
from recon4d.io.cameras.stored_intrinsics import StoredIntrinsics
from recon4d.io.checked_cameras import checked_cameras
from recon4d.io.checked_values import parse_floats
from recon4d.io.file_errors import NPZ_DAMAGE
from recon4d.io.frame_pairing import natural_order

UNITS = {"ns": 1e-9, "nanoseconds": 1e-9, "us": 1e-6, "microseconds": 1e-6, "ms": 1e-3, "milliseconds": 1e-3}
UNITS |= {"s": 1.0, "sec": 1.0, "seconds": 1.0}
"""Seconds per unit, by the names in headers."""
COLUMNS = {
    "time": r"(time|timestamps?|t|stamp|secs?|nsecs?|seconds)$",
    **{f"p{axis}": rf"(t_?{axis}|p_?{axis}|p_rs_r_?{axis}|position_?{axis}|pos_?{axis}|{axis})$" for axis in "xyz"},
    **{f"q{axis}": rf"(q_?{axis}|q_rs_?{axis}|quat_?{axis}|orientation_?{axis}|rot_?{axis})$" for axis in "wxyz"},
}
"""Names of the columns of a CSV file, in lower case and with _ for other characters."""
WANTED = (
    "wanted rows of time tx ty tz qx qy qz qw (TUM), of 12 numbers (KITTI) or of 16, blocks of 4x4, a CSV with a "
    "header, a COLMAP folder, a transforms.json or a scene.npz"
)


def read_pose_text(path: Path) -> CameraFile:
    """Read poses from a text file, whose kind is recognized by its header and the number of its columns.

    Args:
        path: Rows of time tx ty tz qx qy qz qw (TUM); comma-separated values with a header (EuRoC); rows of 12 numbers
            (KITTI, 3x4) or 16 (4x4); or matrices in three or four rows of four.

    Returns:
        The cameras.

    Raises:
        UserError: If the file cannot be read, has another content or is damaged.
    """
    with os_errors_as_user_errors(f"cannot read {path}"):
        data = path.read_bytes()
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    rows = [re.split(r"[,;\s]+", line.partition("#")[0].strip(" ,;\t")) for line in lines]
    rows = [row for row in rows if row != [""]]
    if rows and parse_floats(rows[0]) is None:
        rows = rows[1:]  # a header without #
    headers = []
    for line in lines:
        if parse_floats(re.split(r"[,;\s]+", line.strip(" ,;\t"))) is not None:
            break
        headers.append(line.strip().lstrip("#").strip())
    numbers = [parse_floats(row) for row in rows]
    widths = {len(row) for row in numbers if row is not None}
    if not rows or None in numbers or len(widths) != 1:
        raise UserError(f"cameras {path}: {WANTED}")
    return _read_table(path, np.array(numbers, dtype=np.float64), headers)


def _read_table(path: Path, values: np.ndarray, headers: Sequence[str]) -> CameraFile:
    place, width = f"cameras {path}", values.shape[1]
    named = [(header, _named_columns(header, width)) for header in headers]
    header, columns = next((found for found in named if found[1] is not None), ("", None))
    if columns is None and (unknown := [header for header in headers if len(re.split("[,;]", header)) == width > 1]):
        raise UserError(f"{place}: the columns {unknown[0][:80]!r} are not those of times, positions and quaternions")
    if columns is not None or width in (8, 17):
        if columns is None:
            # EuRoC's files have 17 columns: the quaternion begins with w.
            order = ("qx", "qy", "qz", "qw") if width == 8 else _WXYZ
            names: list[str] = ["time", "px", "py", "pz", *order]
            columns = {name: column for column, name in enumerate(names)}
        _check_finite(place, values[:, list(columns.values())])
        chosen = torch.from_numpy(values)
        quaternions = chosen[:, [columns[name] for name in _WXYZ]]
        poses = poses_from_rows(place, quaternions, chosen[:, [columns[f"p{axis}"] for axis in "xyz"]])
        stamps = values[:, columns["time"]]  # integers of nanoseconds lose at most 128 ns in float64
        unit = _unit(header, columns["time"]) or seconds_per_unit(stamps)
        kind = "TUM" if width == 8 and columns["time"] == 0 and columns["qw"] == 7 else "CSV"
        is_of_body = "p_rs_r" in header.lower() or width == 17
        kind = "EuRoC" if is_of_body else kind
        unit_name = {1.0: "seconds", 1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}[unit]
        seconds = torch.from_numpy(stamps * unit)
        poses = checked_cameras(place, poses)
        return CameraFile(path, f"{kind}, {unit_name}", poses, seconds=seconds, is_of_body=is_of_body)
    if width in (12, 16):
        kind = "KITTI" if width == 12 else "rows of 4x4"
        return CameraFile(path, kind, _checked(place, values.reshape(len(values), -1, 4)))
    if width in (13, 17):
        return CameraFile(path, "numbered 3x4", _checked(place, values[:, 1:].reshape(len(values), -1, 4)))
    if width == 4 and len(values) % 4 == 0 and (len(values) % 3 or _is_last_row(values[3::4])):
        return CameraFile(path, "blocks of 4x4", _checked(place, values.reshape(-1, 4, 4)))
    if width == 4 and len(values) % 3 == 0:
        return CameraFile(path, "blocks of 3x4", _checked(place, values.reshape(-1, 3, 4)))
    raise UserError(f"{place}: rows of {width} numbers; {WANTED}")


_WXYZ = ("qw", "qx", "qy", "qz")


def read_pose_array(path: Path) -> CameraFile:
    """Read poses from a NumPy file.

    Args:
        path: An .npy file with an array of shape (n, 4, 4), (n, 3, 4), (n, 12), (n, 16), (4, 4) or (3, 4); of shape
            (n, 7) as tx ty tz qx qy qz qw, (n, 8) with a time before them; or LLFF's poses_bounds.npy (n, 17).

    Returns:
        The cameras.

    Raises:
        UserError: If the file cannot be read, is damaged or has another shape.
    """
    place = f"cameras {path}"
    with os_errors_as_user_errors(f"cannot read {path}"), path.open("rb") as file:
        size = path.stat().st_size
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            if dtype.kind not in "fiu" or np.prod(shape, dtype=np.float64) * dtype.itemsize > size:
                raise ValueError(f"it holds {dtype} of shape {shape} in {size} bytes")
            file.seek(0)
            values = np.load(file, allow_pickle=False).astype(np.float64)
        except NPZ_DAMAGE as error:
            raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if values.ndim == 2 and values.shape[1] == 17:
        return _read_llff(path, values)
    if values.ndim == 2 and values.shape[1] in (7, 8):
        _check_finite(place, values)
        tensor = torch.from_numpy(values[:, -7:])
        poses = checked_cameras(place, poses_from_rows(place, tensor[:, [6, 3, 4, 5]], tensor[:, :3]))
        stamps = values[:, 0] if values.shape[1] == 8 else None
        seconds = None if stamps is None else torch.from_numpy(stamps * seconds_per_unit(stamps))
        return CameraFile(path, f"array of shape {values.shape}", poses, seconds=seconds)
    if values.ndim == 2 and values.shape in ((4, 4), (3, 4)):
        values = values[None]
    elif values.ndim == 2 and values.shape[1] in (12, 16):
        values = values.reshape(len(values), -1, 4)
    if values.ndim != 3 or values.shape[1:] not in ((4, 4), (3, 4)) or not len(values):
        raise UserError(f"{place}: an array of shape {values.shape}; wanted (n, 4, 4), (n, 3, 4) or (n, 7)")
    return CameraFile(path, f"array of shape {values.shape}", _checked(place, values))


def list_pose_files(folder: Path) -> list[Path]:
    """List the files of a folder that hold one pose each, as in ScanNet's folder ``pose``.

    Args:
        folder: An existing folder.

    Returns:
        Files called .txt that hold one 4x4 or 3x4 matrix, in natural order; empty unless all .txt files do whose names
        have a digit.
    """
    files = [path for path in folder.glob("*.txt") if re.search(r"\d", path.stem)]
    return sorted(files, key=lambda path: natural_order(path.name))


def read_pose_folder(folder: Path) -> CameraFile:
    """Read a folder of text files with one matrix each, named as their pictures.

    Args:
        folder: The folder.

    Returns:
        The cameras; those with values that are not finite are unknown, as in ScanNet.

    Raises:
        UserError: If a file cannot be read or holds no matrix.
    """
    files, matrices = list_pose_files(folder), []
    for path in files:
        with os_errors_as_user_errors(f"cannot read {path}"):
            words = path.read_bytes().decode("utf-8-sig", errors="replace").replace(",", " ").split()
        numbers = parse_floats(words)
        if numbers is None or len(numbers) not in (12, 16):
            raise UserError(f"cameras {path}: wanted one matrix of 4x4 or 3x4 numbers")
        pose = np.eye(4)
        pose[: len(numbers) // 4] = np.array(numbers).reshape(-1, 4)
        matrices.append(pose if np.isfinite(pose).all() else np.full((4, 4), np.nan))
    poses = checked_cameras(f"cameras {folder}", torch.from_numpy(np.stack(matrices)), allow_unknown=True)
    return CameraFile(folder, "4x4 files", poses, tuple(path.stem for path in files))


def _read_llff(path: Path, values: np.ndarray) -> CameraFile:
    """LLFF: 3x5 with the axes down, right, backward, the center, and height, width, focal length; then two bounds."""
    place = f"cameras {path}"
    _check_finite(place, values)
    blocks = values[:, :15].reshape(-1, 3, 5)
    down, right, backward, center = (blocks[:, :, column] for column in range(4))
    poses = _checked(place, np.stack([right, down, -backward, center], axis=2))
    intrinsics = []
    for height, width, focal in blocks[:, :, 4].tolist():
        if not (0 < height < 2**31 and 0 < width < 2**31 and height == int(height) and width == int(width)):
            raise UserError(f"{place}: a picture of {width:g} x {height:g} pixels")
        intrinsics.append(StoredIntrinsics(Lens("PINHOLE"), focal, width=int(width), height=int(height)))
    return CameraFile(path, "LLFF", poses, intrinsics=tuple(intrinsics))


def _checked(place: str, matrices: np.ndarray) -> Float64[Tensor, "camera 4 4"]:
    poses = np.tile(np.eye(4), (len(matrices), 1, 1))
    poses[:, : matrices.shape[1]] = matrices
    # Lost cameras are infinite in ScanNet and NaN elsewhere.
    is_lost = ~np.isfinite(poses).all(axis=(1, 2))
    poses[is_lost] = np.nan
    if is_lost.all():
        raise UserError(f"{place}: none of its poses is finite")
    return checked_cameras(place, torch.from_numpy(poses), allow_unknown=True)


def _check_finite(place: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all() or (values.size and np.abs(values).max() > 3e38):
        raise UserError(f"{place}: it holds numbers that are not finite or too large")


def _is_last_row(rows: np.ndarray) -> bool:
    return bool((rows == (0, 0, 0, 1)).all())


def _named_columns(header: str, width: int) -> dict[str, int] | None:
    """The columns of time, position and quaternion by their names in a header; None if it does not name them all."""
    named = [re.sub(r"[\[(].*", "", name).strip().lower() for name in re.split(r"[,;]", header)]
    if len(named) != width:
        named = [re.sub(r"[\[(].*", "", name).lower() for name in header.split()]
    if len(named) != width:
        return None
    names = [re.sub(r"[^a-z0-9]+", "_", name).strip("_") for name in named]
    names = [re.sub(r"^(time\w*|t|stamp)_(ns|us|ms|s)$", r"\1", name) for name in names]
    found = {}
    for key, pattern in COLUMNS.items():
        places = [place for place, name in enumerate(names) if re.fullmatch(pattern, name)]
        if len(places) != 1:
            return None
        found[key] = places[0]
    return found


def _unit(header: str, column: int) -> float | None:
    """Seconds per unit of the times, if the header of their column names it: ``timestamp [ns]``."""
    names = re.split(r"[,;]", header)
    name = names[column].lower() if len(names) > column else ""
    found = re.search(r"[\[(_\s](ns|nanoseconds|us|microseconds|ms|milliseconds|s|sec|seconds)[\])\s]*$", name)
    return UNITS[found[1]] if found else None
