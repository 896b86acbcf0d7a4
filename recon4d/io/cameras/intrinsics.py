"""Known intrinsics from words or a file: fx, fy, cx, cy or 3x3 matrices, one for all frames or one each.

All are in pixels of the clip's own pictures with the first pixel's center at (0.5, 0.5); whoever has OpenCV's numbers
adds .5 to cx and cy.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SHAPES = "fx fy cx cy or a 3x3 matrix, once or once for each frame"


def read_intrinsics(given: str, num_frames: int) -> Float[Tensor, "time 3 3"]:
    """Intrinsics for each of `num_frames` frames, from ``"fx,fy,cx,cy"`` or from the file called `given`.

    A text file has rows of fx fy cx cy, or one 3x3 matrix in three rows, or rows of nine numbers; commas and spaces
    are alike, and # begins a comment. A JSON file has those numbers in lists, or an object with fx, fy, cx and cy.
    Raises ``FileNotFoundError``, or ``ValueError`` for what holds none of these, another number of frames, or no
    pinhole (a focal length at or below 0, or a last row that is not 0 0 1).
    """
    values = _typed(given)
    if values is None:
        values = _read(Path(given))
    try:
        matrices = _matrices(np.array(values, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"intrinsics {given}: wanted {SHAPES}") from error
    if len(matrices) not in (1, num_frames):
        raise ValueError(f"intrinsics {given}: {len(matrices)} cameras, and the clip has {num_frames} frames")
    is_pinhole = (
        np.isfinite(matrices).all() and (matrices[:, [0, 1], [0, 1]] > 0).all() and (matrices[:, 2] == (0, 0, 1)).all()
    )
    if not is_pinhole:
        raise ValueError(f"intrinsics {given}: wanted focal lengths above 0 and finite numbers, as a pinhole has")
    return torch.from_numpy(matrices).float().expand(num_frames, 3, 3).clone()


def _typed(given: str) -> list[float] | None:
    """Numbers between commas, None where `given` is something else and must be a file."""
    try:
        return [float(word) for word in given.split(",")]
    except ValueError:
        return None


def _read(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"intrinsics {path}: there is no such file, nor is this fx,fy,cx,cy")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")):
            values = json.loads(text)
            return [values[name] for name in ("fx", "fy", "cx", "cy")] if isinstance(values, dict) else values
        lines = [line.partition("#")[0].replace(",", " ").split() for line in text.splitlines()]
        return [[float(word) for word in line] for line in lines if line]
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"intrinsics {path}: wanted {SHAPES}") from error


def _matrices(values: np.ndarray) -> np.ndarray:
    """(n, 3, 3) from any of the shapes."""
    if values.shape in ((3, 3), (4,)):
        values = values[None]
    if values.ndim == 2 and values.shape[1] == 9:
        values = values.reshape(-1, 3, 3)
    if values.ndim == 3 and values.shape[1:] == (3, 3):
        return values
    if values.ndim != 2 or values.shape[1] != 4 or not len(values):
        raise ValueError(values.shape)
    matrices = np.zeros((len(values), 3, 3))
    matrices[:, [0, 1, 0, 1], [0, 1, 2, 2]] = values
    matrices[:, 2, 2] = 1
    return matrices
