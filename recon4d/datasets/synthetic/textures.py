"""Image textures for worlds: a folder of pictures, or a pack of many small ones in one npz file."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from recon4d.io import decode_photo, list_photos, read_photo


def load_pictures(path: str | Path, side: int = 192) -> UInt8[Tensor, "picture 3 side side"]:
    """Every picture of a folder, or of a pack, as a square of `side` pixels (its middle, resized).

    A pack is an npz file with `jpeg`, the encoded pictures one after the other as bytes, and `offset`, where each
    begins and the last one ends. Raises ``FileNotFoundError``, or ``ValueError`` for a folder without pictures, a file
    that is no pack, and a damaged picture, which is named.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    pictures = [read_photo(photo) for photo in list_photos(path)] if path.is_dir() else _unpack(path)
    if not pictures:
        raise ValueError(f"{path} holds no pictures")
    return torch.stack([_square(picture, side) for picture in pictures])


def _unpack(path: Path) -> list[Tensor]:
    try:
        with np.load(path, allow_pickle=False) as pack:
            data, offsets = pack["jpeg"].tobytes(), pack["offset"].tolist()
    except Exception as error:
        raise ValueError(f"{path} is not a pack of pictures (an npz with jpeg and offset)") from error
    return [decode_photo(data[a:b], f"{path}: picture {i}") for i, (a, b) in enumerate(pairwise(offsets))]


def _square(picture: Tensor, side: int) -> Tensor:
    height, width = picture.shape[1:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    middle = picture[:, top : top + short, left : left + short]
    if short == side:
        return middle
    resized = F.interpolate(middle[None].float(), (side, side), mode="bilinear", antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)
