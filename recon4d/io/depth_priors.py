"""Known depth of a clip, at some or all of its pixels, from an npz file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.npz_arrays import load_arrays
from recon4d.records import Clip

LAYOUTS = "depths (time, height, width), or depths (n), pixels (n, 2) and frames (n)"
"""The two layouts of a file, for messages."""


def read_depth_priors(path: Path, clip: Clip) -> Float[Tensor, "time height width"]:
    """Read known depth.

    Args:
        path: An npz file that holds either ``depths`` (time, height, width), 0 or not finite where unknown; or a list
            of points: their ``depths`` (n), ``pixels`` (n, 2) as x and y (the center of the first pixel is 0.5, 0.5)
            and ``frames`` (n), counted from 0 among those of the clip. If two points fall into one pixel, the nearer
            counts.
        clip: The clip, whose images have the size that the file refers to.

    Returns:
        z in the frame's camera, of shape (time, height, width); NaN where unknown.

    Raises:
        UserError: If the file is missing or damaged, holds other arrays or sizes, has points outside the clip, or has
            no valid depth.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    try:
        stored = load_arrays(path, ("depths", "pixels", "frames"))
    except UserError as error:
        raise UserError(f"depth {path}: it is no npz file, or damaged; wanted {LAYOUTS} ({error})") from error
    wrong = {name: array.dtype for name, array in stored.items() if array.dtype.kind not in "fiu"}
    if wrong:
        raise UserError(f"depth {path}: it holds values of types {wrong}; wanted numbers")
    depths = (
        _from_points(path, stored, clip) if {"pixels", "frames"} & stored.keys() else _from_maps(path, stored, clip)
    )
    depths = torch.where(depths.isfinite() & (depths > 0), depths, torch.nan)
    if depths.isnan().all():
        raise UserError(f"depth {path}: not a single depth is finite and above 0")
    return depths


def _from_maps(path: Path, stored: Mapping[str, np.ndarray], clip: Clip) -> Float[Tensor, "time height width"]:
    wanted = (clip.num_frames, *clip.size)
    given = stored["depths"].shape if "depths" in stored else None
    if given != wanted:
        found = "it holds no depths" if given is None else f"its depths have shape {given}"
        raise UserError(f"depth {path}: {found}; wanted {LAYOUTS} with (time, height, width) = {wanted}")
    return torch.from_numpy(stored["depths"].astype(np.float32))


def _from_points(path: Path, stored: Mapping[str, np.ndarray], clip: Clip) -> Float[Tensor, "time height width"]:
    shapes = {name: values.shape for name, values in stored.items()}
    count = len(stored["depths"]) if "depths" in stored and stored["depths"].ndim == 1 else -1
    if shapes != {"depths": (count,), "pixels": (count, 2), "frames": (count,)}:
        raise UserError(f"depth {path}: it holds arrays of shapes {shapes}; wanted {LAYOUTS}")
    (height, width), pixels, frames = clip.size, stored["pixels"].astype(np.float64), stored["frames"]
    inside = (pixels >= 0).all(axis=1) & (pixels < (width, height)).all(axis=1)
    inside &= (frames >= 0) & (frames < clip.num_frames)
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        location = f"frame {frames[first]} at pixel ({pixels[first, 0]:g}, {pixels[first, 1]:g})"
        raise UserError(
            f"depth {path}: {(~inside).sum()} of {count} points lie outside the clip, the first in {location}; wanted "
            f"frames 0 to {clip.num_frames - 1} and pixels within {width} x {height}"
        )
    values = stored["depths"].astype(np.float64)
    is_valid = values > 0
    column, row = np.floor(pixels[is_valid]).astype(np.int64).T
    depths = np.full((clip.num_frames, height, width), np.inf)
    np.minimum.at(depths, (frames[is_valid].astype(np.int64), row, column), values[is_valid])
    return torch.from_numpy(depths.astype(np.float32))
