"""Known depth of a clip, at few or at all of its pixels, from an npz file."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.records import Clip

_DAMAGE = (ValueError, EOFError, zipfile.BadZipFile, zlib.error)
LAYOUTS = "depths (time, height, width), or depths (n), pixels (n, 2) and frames (n)"


def read_depth_priors(path: Path, clip: Clip) -> Float[Tensor, "time height width"]:
    """z in each camera at the pixels of `clip`'s own pictures, NaN where it is not known.

    The file holds ``depths`` (time, height, width), 0 or not finite where unknown; or a list: ``depths`` (n), the
    ``pixels`` (n, 2) they are seen at as x and y (the first pixel's center is at .5), and their ``frames`` (n), counted
    from 0 among the clip's. Of two in one pixel the nearer counts. Raises ``FileNotFoundError``, or ``ValueError`` for
    other arrays, another size or number of frames, points outside the pictures, and a file without a single depth.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in ("depths", "pixels", "frames") if name in arrays}
    except (*_DAMAGE, TypeError) as error:
        raise ValueError(f"depth {path}: it is no npz file, or damaged; wanted {LAYOUTS}") from error
    depths = _listed(path, stored, clip) if {"pixels", "frames"} & stored.keys() else _mapped(path, stored, clip)
    depths = torch.where(depths.isfinite() & (depths > 0), depths, torch.nan)
    if depths.isnan().all():
        raise ValueError(f"depth {path}: not a single depth is finite and above 0")
    return depths


def _mapped(path: Path, stored: Mapping[str, np.ndarray], clip: Clip) -> Float[Tensor, "time height width"]:
    wanted = (clip.num_frames, *clip.size)
    given = stored["depths"].shape if "depths" in stored else None
    if given != wanted:
        found = "it holds no depths" if given is None else f"its depths have shape {given}"
        raise ValueError(f"depth {path}: {found}; wanted {LAYOUTS} with (time, height, width) = {wanted}")
    return torch.from_numpy(stored["depths"].astype(np.float32))


def _listed(path: Path, stored: Mapping[str, np.ndarray], clip: Clip) -> Float[Tensor, "time height width"]:
    shapes = {name: values.shape for name, values in stored.items()}
    count = len(stored["depths"]) if "depths" in stored and stored["depths"].ndim == 1 else -1
    if shapes != {"depths": (count,), "pixels": (count, 2), "frames": (count,)}:
        raise ValueError(f"depth {path}: it holds arrays of shapes {shapes}; wanted {LAYOUTS}")
    (height, width), pixels, frames = clip.size, stored["pixels"].astype(np.float64), stored["frames"]
    inside = (pixels >= 0).all(axis=1) & (pixels < (width, height)).all(axis=1)
    inside &= (frames >= 0) & (frames < clip.num_frames)
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        where = f"frame {frames[first]} at pixel ({pixels[first, 0]:g}, {pixels[first, 1]:g})"
        raise ValueError(
            f"depth {path}: {(~inside).sum()} of {count} points lie outside the clip, the first in {where}; wanted "
            f"frames 0 to {clip.num_frames - 1} and pixels within {width} x {height}"
        )
    values = stored["depths"].astype(np.float64)
    usable = values > 0
    column, row = np.floor(pixels[usable]).astype(np.int64).T
    depths = np.full((clip.num_frames, height, width), np.inf)
    np.minimum.at(depths, (frames[usable].astype(np.int64), row, column), values[usable])
    return torch.from_numpy(depths.astype(np.float32))
