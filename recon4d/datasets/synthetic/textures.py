"""Image textures for synthetic scenes, from a folder of pictures or from an npz pack of many small ones."""

import zlib
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from recon4d.errors import UserError, one_line, os_errors_as_user_errors
from recon4d.io import decode_photo, list_photos, read_photo


def load_textures(path: str | Path, side: int = 192) -> UInt8[Tensor, "texture 3 side side"]:
    """Load pictures as square textures: their central square, resized.

    A pack is an npz file with two arrays: `jpeg`, the encoded pictures concatenated as bytes, and `offset`, the start
    of each picture followed by the end of the last.

    Args:
        path: Folder of pictures, or a pack.
        side: Side of the textures in pixels.

    Returns:
        The textures, uint8 RGB.

    Raises:
        UserError: If the path does not exist, contains no pictures, is not a pack, or if a picture is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder of pictures or an npz pack of textures")
    pictures = [read_photo(photo) for photo in list_photos(path)] if path.is_dir() else _unpack(path)
    if not pictures:
        raise UserError(f"{path} contains no pictures")
    return torch.stack([_square(picture, side) for picture in pictures])


def _unpack(path: Path) -> list[Tensor]:
    """Decode the pictures of a pack."""
    try:
        with os_errors_as_user_errors("cannot read the pack of pictures"), np.load(path, allow_pickle=False) as pack:
            data, offsets = pack["jpeg"].tobytes(), [int(offset) for offset in pack["offset"]]
    # Errors of numpy and zipfile for files that are not npz, are damaged, or lack these arrays.
    except (ValueError, KeyError, IndexError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is not a pack of pictures; give an npz file with the arrays jpeg and offset: {one_line(error)}"
        ) from error
    return [decode_photo(data[a:b], f"{path}: picture {i}") for i, (a, b) in enumerate(pairwise(offsets))]


def _square(picture: Tensor, side: int) -> Tensor:
    """Crop the central square of a picture and resize it."""
    height, width = picture.shape[1:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    middle = picture[:, top : top + short, left : left + short]
    if short == side:
        return middle
    resized = F.interpolate(middle[None].float(), (side, side), mode="bilinear", antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)
