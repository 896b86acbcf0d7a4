"""Masks of what is to be ignored in a clip: one picture for all frames, or a folder with one for each."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from recon4d.io.frame_pairing import places
from recon4d.io.photos import list_photos
from recon4d.io.rasters import read_raster
from recon4d.records import Clip


def read_masks(path: Path, clip: Clip) -> Bool[Tensor, "time height width"]:
    """True where `clip` is to be ignored: where a mask is white (above half; any color channel counts).

    Masks of a folder belong to the frames of their names, or in natural order where there is one for each frame.
    Raises ``FileNotFoundError``, or ``ValueError`` for a folder without masks or with too few, for masks of another
    size than the clip, and for files that are no pictures.
    """
    if not path.is_dir():
        return _read_mask(path, clip.size).expand(clip.num_frames, -1, -1).clone()
    return torch.stack([_read_mask(file, clip.size) for file in _files_of_frames(path, clip)])


def mask_reader(path: Path, clip: Clip) -> Callable[[Sequence[int]], Iterator[Bool[Tensor, "height width"]]]:
    """What yields the masks of the frames at given positions of `clip` one after the other; its pictures do not matter.

    A single picture is read now, those of a folder when they are wanted. Errors as for `read_masks`, those of a
    folder's files when their turn comes.
    """
    if not path.is_dir():
        mask = _read_mask(path, clip.size)
        return lambda positions: (mask for _ in positions)
    files = _files_of_frames(path, clip)
    return lambda positions: (_read_mask(files[position], clip.size) for position in positions)


def _files_of_frames(path: Path, clip: Clip) -> list[Path]:
    """The file in the folder `path` for each frame of `clip`."""
    files = list_photos(path)
    if not files:
        raise ValueError(f"masks {path}: the folder holds no pictures")
    chosen = places(clip, [file.name for file in files], f"masks {path}: the folder holds")
    return [files[place] for place in chosen]


def _read_mask(path: Path, size: tuple[int, int]) -> Bool[Tensor, "height width"]:
    values = read_raster(path)
    if values.shape[:2] != size:
        given, wanted = (f"{width} x {height}" for height, width in (values.shape[:2], size))
        raise ValueError(f"mask {path}: it is {given} pixels, and the clip {wanted}")
    if values.ndim == 3:
        colors = values.shape[2] - (values.shape[2] in (2, 4))  # transparency is no color
        values = values[..., :colors].max(axis=-1)
    white = np.iinfo(values.dtype).max if np.issubdtype(values.dtype, np.integer) else 1.0
    return torch.from_numpy(values > white / 2)
