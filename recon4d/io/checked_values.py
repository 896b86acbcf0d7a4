"""Checked access to the values of annotation files: JSON, arrays of numbers, rigid transforms."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.errors import DataError
from recon4d.geometry import nearest_rotation, rigid
from recon4d.io.file_errors import data_errors

ROTATION_TOLERANCE = 1e-2
"""Largest deviation of an entry of a stored rotation from the nearest rotation matrix. Hand-tuned."""


def read_json(sequence: str, path: Path) -> Any:
    """Read a JSON file.

    Args:
        sequence: The sequence that the file belongs to, for the message.
        path: The file, in UTF-8.

    Returns:
        Dictionaries, lists and plain values.

    Raises:
        DataError: If the file is missing or damaged.
    """
    with data_errors(sequence, path):
        return json.loads(path.read_text(encoding="utf-8"))


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
        DataError: If the values are not numbers, not finite or of another shape.
    """
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(sequence, file, f"holds no array of numbers of shape {_format_shape(shape)}") from error
    fits = array.ndim == len(shape) and all(w in (None, n) for n, w in zip(array.shape, shape, strict=True))
    if not fits:
        raise DataError(sequence, file, f"holds numbers of shape {array.shape}, wanted {_format_shape(shape)}")
    if not np.isfinite(array).all():
        raise DataError(sequence, file, "holds numbers that are not finite")
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
        DataError: If a matrix differs from a rigid transform by more than `ROTATION_TOLERANCE`, or as `parse_numbers`.
    """
    matrices = parse_numbers(sequence, file, values, (count, 4, 4))
    rotations = nearest_rotation(matrices[:, :3, :3])
    last_row = matrices.new_tensor([0.0, 0.0, 0.0, 1.0])
    wrong = torch.maximum((rotations - matrices[:, :3, :3]).abs().amax(), (matrices[:, 3] - last_row).abs().amax())
    if wrong > ROTATION_TOLERANCE:
        raise DataError(sequence, file, "holds a camera whose matrix is not a rotation and a translation")
    return rigid(rotations, matrices[:, :3, 3])


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
