"""Known intrinsics from text or a file: fx, fy, cx, cy or 3x3 matrices, once for all frames or once per frame.

All values are in pixels of the clip's own pictures, with the center of the first pixel at (0.5, 0.5). Add 0.5 to cx and
cy of OpenCV, whose first center is (0, 0).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError, os_errors_as_user_errors

SHAPES = "fx fy cx cy or a 3x3 matrix, once or once for each frame"
"""The accepted shapes, for messages."""


def read_intrinsics(given: str, num_frames: int) -> Float[Tensor, "time 3 3"]:
    """Read intrinsics from text or a file.

    A text file has rows of fx fy cx cy, one 3x3 matrix in three rows, or rows of nine numbers. Numbers are separated
    by commas or spaces, and # begins a comment. A JSON file has such numbers in lists, or an object with fx, fy, cx and
    cy.

    Args:
        given: ``"fx,fy,cx,cy"``, or the name of a file.
        num_frames: Number of frames of the clip.

    Returns:
        Intrinsics of each frame, of shape (time, 3, 3), float32.

    Raises:
        UserError: If the file is missing, does not hold such numbers or has another number of frames, or if the
            intrinsics are not those of a pinhole camera (a focal length at or below 0, or a last row other than 0 0 1).
    """
    values = _parse_list(given)
    if values is None:
        values = _read(Path(given))
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:  # entries that are not numbers, or rows of different lengths
        raise _wrong_contents(given) from error
    matrices = _matrices(numbers)
    if matrices is None:
        raise _wrong_contents(given)
    if len(matrices) not in (1, num_frames):
        raise UserError(f"intrinsics {given}: {len(matrices)} cameras, and the clip has {num_frames} frames")
    is_pinhole = (
        np.isfinite(matrices).all() and (matrices[:, [0, 1], [0, 1]] > 0).all() and (matrices[:, 2] == (0, 0, 1)).all()
    )
    if not is_pinhole:
        raise UserError(f"intrinsics {given}: wanted focal lengths above 0 and finite numbers, as a pinhole has")
    return torch.from_numpy(matrices).float().expand(num_frames, 3, 3).clone()


def parse_floats(words: list[str]) -> list[float] | None:
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


def _parse_list(given: str) -> list[float] | None:
    """Numbers separated by commas; None if `given` is something else, which must be a file."""
    return parse_floats(given.split(","))


def _read(path: Path) -> Any:
    if not path.exists():
        raise UserError(f"intrinsics {path}: there is no such file, nor is this fx,fy,cx,cy")
    with os_errors_as_user_errors(f"intrinsics {path}"):
        data = path.read_bytes()
    try:
        text = data.decode("utf-8")
        is_json = path.suffix.lower() == ".json" or text.lstrip().startswith(("{", "["))
        values = json.loads(text) if is_json else None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _wrong_contents(path) from error
    if not is_json:
        lines = [line.partition("#")[0].replace(",", " ").split() for line in text.splitlines()]
        rows = [parse_floats(line) for line in lines if line]
        if None in rows:
            raise _wrong_contents(path)
        return rows
    if not isinstance(values, dict):
        return values
    names = ("fx", "fy", "cx", "cy")
    if not values.keys() >= set(names):
        raise _wrong_contents(path)
    return [values[name] for name in names]


def _wrong_contents(given: str | Path) -> UserError:
    return UserError(f"intrinsics {given}: wanted {SHAPES}")


def _matrices(values: np.ndarray) -> np.ndarray | None:
    """(n, 3, 3) from any of the accepted shapes; None for another shape."""
    if values.shape in ((3, 3), (4,)):
        values = values[None]
    if values.ndim == 2 and values.shape[1] == 9:
        values = values.reshape(-1, 3, 3)
    if values.ndim == 3 and values.shape[1:] == (3, 3):
        return values
    if values.ndim != 2 or values.shape[1] != 4 or not len(values):
        return None
    matrices = np.zeros((len(values), 3, 3))
    matrices[:, [0, 1, 0, 1], [0, 1, 2, 2]] = values
    matrices[:, 2, 2] = 1
    return matrices
