"""Checked access to the values of annotation files: JSON, arrays of numbers, rigid transforms."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.errors import DataError
from recon4d.io.checked_cameras import camera_problem, checked_cameras
from recon4d.io.file_errors import data_errors

MAX_NUMBER = 3e38
"""Largest magnitude of a number that float32 can represent."""


def read_json(sequence: str, path: Path) -> Any:
    """Read a JSON file.

    Args:
        sequence: The sequence that the file belongs to, for the message.
        path: The file, in UTF-8 with or without a byte order mark.

    Returns:
        Dictionaries, lists and plain values.

    Raises:
        DataError: If the file is missing or damaged.
    """
    with data_errors(sequence, path):
        return json.loads(path.read_text(encoding="utf-8-sig"))


def get_entry(sequence: str, file: str, record: Any, *keys: str) -> Any:
    """Look up ``record[key][key]...``.

    Args:
        sequence: The sequence that the file belongs to, for the message.
        file: The file that holds the record, for the message.
        record: A value as read from JSON, of any type.
        keys: Keys from the outermost to the innermost dictionary.

    Returns:
        The value.

    Raises:
        DataError: If a key is missing, or a value on the way to it is not a dictionary.
    """
    for key in keys:
        if not isinstance(record, Mapping) or key not in record:
            raise DataError(sequence, file, f"has no {'.'.join(keys)}")
        record = record[key]
    return record


def parse_numbers(sequence: str, file: str, values: Any, shape: tuple[int | None, ...]) -> Float64[Tensor, "..."]:
    """Convert values to a tensor of finite numbers.

    Args:
        sequence: The sequence that the file belongs to, for the message.
        file: The file that holds the values, for the message.
        values: Nested lists, an array or a number, of any content.
        shape: The shape that the values must have. None stands for any length.

    Returns:
        float64 tensor of that shape.

    Raises:
        DataError: If the values are not numbers, not finite, too large for float32 or of another shape.
    """
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(sequence, file, f"holds no array of numbers of shape {_format_shape(shape)}") from error
    fits = array.ndim == len(shape) and all(w in (None, n) for n, w in zip(array.shape, shape, strict=True))
    if not fits:
        raise DataError(sequence, file, f"holds numbers of shape {array.shape}, wanted {_format_shape(shape)}")
    if not np.isfinite(array).all():
        raise DataError(sequence, file, "holds numbers that are not finite")
    if array.size and np.abs(array).max() > MAX_NUMBER:
        raise DataError(sequence, file, f"holds a number above {MAX_NUMBER:g}")
    return torch.from_numpy(array)


def parse_rigid_matrices(sequence: str, file: str, values: Any, count: int) -> Float64[Tensor, "time 4 4"]:
    """Convert values to rigid transforms, whose rotations are replaced by the nearest exact ones.

    Args:
        sequence: The sequence that the file belongs to, for the message.
        file: The file that holds the values, for the message.
        values: Numbers of shape (count, 4, 4).
        count: Number of matrices.

    Returns:
        float64 tensor of shape (count, 4, 4).

    Raises:
        DataError: If a matrix is not that of a camera (`camera_problem`), or as `parse_numbers`.
    """
    matrices = parse_numbers(sequence, file, values, (count, 4, 4))
    problem = camera_problem(matrices)
    if problem is not None:
        raise DataError(sequence, file, problem)
    return checked_cameras(file, matrices)


def parse_floats(words: Sequence[str]) -> list[float] | None:
    """Convert words to floats.

    Args:
        words: Numbers as text.

    Returns:
        The numbers, or None if a word is not a number.
    """
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


def pinhole_matrix(focal_x: float, focal_y: float, center_x: float, center_y: float) -> Float64[Tensor, "3 3"]:
    """Build the matrix of a pinhole camera.

    Args:
        focal_x: Focal length along x in pixels.
        focal_y: Focal length along y in pixels.
        center_x: x of the principal point in pixels.
        center_y: y of the principal point in pixels.

    Returns:
        Intrinsics of shape (3, 3), float64.
    """
    rows = [[focal_x, 0.0, center_x], [0.0, focal_y, center_y], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)


def _format_shape(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if length is None else str(length) for length in shape)})"
