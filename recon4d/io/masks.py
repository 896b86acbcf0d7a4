"""Masks of the pixels to ignore in a clip: one picture for all frames, or a folder with one picture per frame."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.frame_pairing import match_frames
from recon4d.io.photos import list_photos
from recon4d.io.rasters import read_raster
from recon4d.records import Clip


def read_masks(path: Path, clip: Clip) -> Bool[Tensor, "time height width"]:
    """Read the masks of a clip.

    Args:
        path: A picture for all frames, or a folder of pictures: one per frame, by name or else in natural order. White
            pixels (any color channel above half) are ignored; transparency does not matter.
        clip: The clip.

    Returns:
        Masks of shape (time, height, width), true for pixels to ignore.

    Raises:
        UserError: If a file is missing or not a picture, if a mask has another size than the clip, or if the masks of
            a folder do not fit the frames.
    """
    if not path.is_dir():
        return _read_mask(path, clip.size).expand(clip.num_frames, -1, -1).clone()
    return torch.stack([_read_mask(file, clip.size) for file in _files_of_frames(path, clip)])


def mask_reader(path: Path, clip: Clip) -> Callable[[Sequence[int]], Iterator[Bool[Tensor, "height width"]]]:
    """Prepare reading the masks of a long clip frame by frame.

    Args:
        path: As for `read_masks`. A single picture is read immediately; those of a folder are read when needed.
        clip: A clip with the names, number and size of the frames. Its images are not used.

    Returns:
        A function that takes frame indices and yields a mask (height, width) for each of them. It raises the errors of
        `read_masks` that concern a single file of a folder.

    Raises:
        UserError: As `read_masks`.
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
        raise UserError(f"masks {path}: the folder holds no pictures")
    chosen = match_frames(clip, [file.name for file in files], f"masks {path}: the folder holds")
    return [files[index] for index in chosen]


def _read_mask(path: Path, size: tuple[int, int]) -> Bool[Tensor, "height width"]:
    values = read_raster(path)
    if values.shape[:2] != size:
        given, wanted = (f"{width} x {height}" for height, width in (values.shape[:2], size))
        raise UserError(f"mask {path}: it is {given} pixels, and the clip {wanted}")
    if values.ndim == 3:
        colors = values.shape[2] - (values.shape[2] in (2, 4))  # the last of 2 or 4 channels is transparency
        values = values[..., :colors].max(axis=-1)
    white = np.iinfo(values.dtype).max if np.issubdtype(values.dtype, np.integer) else 1.0
    return torch.from_numpy(values > white / 2)
