"""Values of annotation files, checked as they are read: JSON, arrays of numbers, rigid cameras."""

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
from recon4d.io.file_errors import blamed_on

ROTATION_TOLERANCE = 1e-2
"""How far the entries of a stored rotation may be from orthonormal before it is taken for something else."""


def read_json(sequence: str, path: Path) -> Any:
    """What a JSON file holds; `DataError` where it is missing or damaged."""
    with blamed_on(sequence, path):
        return json.loads(path.read_text(encoding="utf-8"))


def entry(sequence: str, file: str, record: Any, *keys: str) -> Any:
    """``record[key][key]...``, or a `DataError` that names the key which is not there."""
    for key in keys:
        if not isinstance(record, Mapping) or key not in record:
            raise DataError(sequence, file, f"has no {'.'.join(keys)}")
        record = record[key]
    return record


def numbers(sequence: str, file: str, values: Any, shape: tuple[int | None, ...]) -> Float64[Tensor, "..."]:
    """`values` as finite float64 of `shape` (None: any length), else `DataError`."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(sequence, file, f"holds no array of numbers of shape {_spoken(shape)}") from error
    fits = array.ndim == len(shape) and all(w in (None, n) for n, w in zip(array.shape, shape, strict=True))
    if not fits:
        raise DataError(sequence, file, f"holds numbers of shape {array.shape}, wanted {_spoken(shape)}")
    if not np.isfinite(array).all():
        raise DataError(sequence, file, "holds numbers that are not finite")
    return torch.from_numpy(array)


def rigid_matrices(sequence: str, file: str, values: Any, count: int) -> Float64[Tensor, "time 4 4"]:
    """`count` rigid 4x4 transforms, their rotations made exact; `DataError` where a matrix is none."""
    matrices = numbers(sequence, file, values, (count, 4, 4))
    rotations = nearest_rotation(matrices[:, :3, :3])
    last_row = matrices.new_tensor([0.0, 0.0, 0.0, 1.0])
    wrong = torch.maximum((rotations - matrices[:, :3, :3]).abs().amax(), (matrices[:, 3] - last_row).abs().amax())
    if wrong > ROTATION_TOLERANCE:
        raise DataError(sequence, file, "holds a camera that is no rotation and translation")
    return rigid(rotations, matrices[:, :3, 3])


def pinhole_matrix(focal_x: float, focal_y: float, center_x: float, center_y: float) -> Float64[Tensor, "3 3"]:
    """Intrinsics of focal lengths and principal point in pixels."""
    rows = [[focal_x, 0.0, center_x], [0.0, focal_y, center_y], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)


def _spoken(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if length is None else str(length) for length in shape)})"
