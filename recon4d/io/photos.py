"""Reads and writes single pictures; the door to Pillow for files."""

import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def read_photo(path: str | Path) -> UInt8[Tensor, "3 height width"]:
    """The picture at `path` as RGB, turned upright where its EXIF orientation says so.

    Sixteen-bit pictures are scaled to eight bits; transparency is dropped. Raises `FileNotFoundError` where nothing is
    there and `ValueError` for a file that is damaged or no picture.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return decode_photo(path.read_bytes(), str(path))


def decode_photo(data: bytes, name: str) -> UInt8[Tensor, "3 height width"]:
    """The picture that the bytes of a file hold, as `read_photo` answers it; `name` says in errors which it is."""
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(data)) as opened:
            pixels = _rgb(ImageOps.exif_transpose(opened))
    except Exception as error:  # Pillow's decoders raise whatever their damaged input leads them to.
        raise ValueError(f"{name} cannot be read as a picture: {_one_line(error)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def list_photos(folder: str | Path) -> list[Path]:
    """The pictures lying in `folder` in natural order (img2 before img10), hidden files left out.

    Raises `FileNotFoundError` where there is no such folder and `NotADirectoryError` where it is a file.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; wanted a folder of pictures")
    photos = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(photos, key=_natural_order)


def write_jpeg(path: str | Path, image: UInt8[Tensor, "3 height width"], quality: int = 92) -> None:
    """Writes an RGB picture as a JPEG file of `quality` 1 to 100. Raises `OSError` where it cannot be written."""
    from PIL import Image

    if not 1 <= quality <= 100:
        raise ValueError(f"quality = {quality}; wanted 1 to 100")
    Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(path, format="JPEG", quality=quality)


def _rgb(picture: "Image.Image") -> UInt8[np.ndarray, "height width 3"]:
    if picture.mode.startswith("I"):
        # Pillow would cut sixteen-bit grays off at 255; all of them (32-bit mode "I" too, in older Pillow) are scaled.
        levels = np.asarray(picture).astype(np.float64).clip(0, 65535) / 257
        return np.repeat(levels.round().astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode == "F":
        raise ValueError("its pixels are floats; wanted 8 or 16 bits")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # straight to RGB works too, but with a warning
    return np.array(picture.convert("RGB"))


def _natural_order(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], path.name


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
