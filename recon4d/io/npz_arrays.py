"""Named arrays in npz files, written atomically and read back bit for bit."""

import math
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon4d.errors import UserError, one_line, os_errors_as_user_errors
from recon4d.io.file_errors import NPZ_DAMAGE
from recon4d.io.files import atomic_file

_FLOATS = ("float16", "float32", "float64")
_INTEGERS = ("int8", "int16", "int32", "int64")


@dataclass(frozen=True)
class ArrayHeader:
    """Type and shape of a stored array."""

    dtype: np.dtype
    """Type of the elements."""
    shape: tuple[int, ...]
    """Length of each axis."""


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], compressed: bool = False) -> None:
    """Write arrays to an npz file, which appears complete or not at all.

    Args:
        path: The file to write or replace, under any name.
        arrays: Arrays by name; without Python objects.
        compressed: Whether to compress the file, which is slower and loses nothing.

    Raises:
        UserError: If the file cannot be written.
    """
    save = np.savez_compressed if compressed else np.savez
    with atomic_file(path) as partial, partial.open("wb") as file:
        save(file, **arrays)  # pyright: ignore[reportArgumentType]


def load_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read arrays from an npz file.

    Args:
        path: The file.
        names: Names of the arrays to read; others stay unread. Names that the file does not have are left out. None
            reads all arrays.

    Returns:
        Arrays by name.

    Raises:
        UserError: If the file is missing, damaged or no npz file, or cannot be read.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    with os_errors_as_user_errors(f"cannot read {path}"), path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise UserError(f"cannot read {path}: it is not an npz archive, or only a part of one")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                loaded = {name: archive[name] for name in archive if names is None or name in names}
        except NPZ_DAMAGE as error:
            raise UserError(f"cannot read {path}: {one_line(error)}") from error
    # Members of a foreign archive that are not arrays come as bytes.
    return {name: array for name, array in loaded.items() if isinstance(array, np.ndarray)}


def load_checked_arrays(
    path: Path, shapes: Mapping[str, Sequence[str | int]], integers: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Read arrays from an npz file that must hold all of them, with the right types and shapes.

    Args:
        path: The file.
        shapes: Shape of each array; see `check_arrays`.
        integers: Names of the arrays of whole numbers; the others hold floats.

    Returns:
        Arrays by name.

    Raises:
        UserError: As `load_arrays`, or if an array is missing or of another type or shape.
    """
    arrays = load_arrays(path, list(shapes))
    try:
        check_arrays(arrays, shapes, list(shapes), integers)
    except UserError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return arrays


def load_headers(path: Path) -> dict[str, ArrayHeader]:
    """Read types and shapes of the arrays in an npz file, and check that the file has room for their elements.

    The elements themselves are not read.

    Args:
        path: The file.

    Returns:
        Headers by name of the array.

    Raises:
        UserError: If the file is missing, damaged, truncated or no npz file, or cannot be read.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    with os_errors_as_user_errors(f"cannot read {path}"), path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise UserError(f"cannot read {path}: it is not an npz archive, or only a part of one")
        try:
            with zipfile.ZipFile(file) as archive:
                members = {member.filename: _read_header(archive, member) for member in archive.infolist()}
        except NPZ_DAMAGE as error:
            raise UserError(f"cannot read {path}: {one_line(error)}") from error
    for name, (header, num_bytes) in members.items():
        if header.dtype.itemsize * math.prod(header.shape) != num_bytes:
            raise UserError(f"cannot read {path}: {name} has {num_bytes} bytes for an array of shape {header.shape}")
    return {name.removesuffix(".npy"): header for name, (header, _) in members.items()}


def check_arrays(
    arrays: Mapping[str, np.ndarray] | Mapping[str, ArrayHeader],
    shapes: Mapping[str, Sequence[str | int]],
    required: Collection[str],
    integers: Collection[str] = (),
) -> None:
    """Check that arrays are present and have the right types and shapes.

    Args:
        arrays: Arrays or their headers by name; names that are not in `shapes` are not checked.
        shapes: Axes of each array: a length, or a letter that stands for the same length everywhere.
        required: Names that must be present.
        integers: Names of the arrays that must hold signed integers. All others must hold floats.

    Raises:
        UserError: If something does not fit. The message begins with the name of the array or "it has".
    """
    missing = [name for name in required if name not in arrays]
    if missing:
        raise UserError(f"it has no {', '.join(missing)}, so recon4d did not write it")
    lengths: dict[str | int, int] = {}
    for name, shape in shapes.items():
        if name in arrays:
            _check_array(name, arrays[name], shape, _INTEGERS if name in integers else _FLOATS, lengths)


def _check_array(
    name: str,
    array: np.ndarray | ArrayHeader,
    shape: Sequence[str | int],
    dtypes: Sequence[str],
    lengths: dict[str | int, int],
) -> None:
    """Check one array; `lengths` of the lettered axes grow as letters are met."""
    if array.dtype.name not in dtypes or not array.dtype.isnative:
        raise UserError(f"{name} has type {array.dtype}, wanted {' or '.join(dtypes)}")
    if len(array.shape) == len(shape):
        for axis, length in zip(shape, array.shape, strict=True):
            if isinstance(axis, str):
                lengths.setdefault(axis, length)
    wanted = tuple(lengths.get(axis, axis) for axis in shape)
    if array.shape != wanted:
        shown = f"({', '.join(map(str, wanted))}{',' if len(wanted) == 1 else ''})"
        raise UserError(f"{name} has shape {array.shape}, wanted {shown}")


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[ArrayHeader, int]:
    """The header of one npy file, and the number of bytes behind it."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        return ArrayHeader(dtype, shape), member.file_size - file.tell()
