"""Reading and writing of single pictures in color, with Pillow."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from recon4d.errors import UserError, one_line, os_errors_as_user_errors
from recon4d.io.file_errors import is_there

if TYPE_CHECKING:
    from PIL import Image

PHOTO_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
        *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".tga", ".ppm", ".pgm", ".pnm"),
    }
)
"""Lower-case suffixes of the files that count as pictures."""


def read_photo(path: str | Path) -> UInt8[Tensor, "3 height width"]:
    """Read a picture as RGB, rotated upright as its EXIF orientation says.

    Args:
        path: The file. Sixteen-bit pictures are scaled to eight bits; transparency is dropped.

    Returns:
        The image, of shape (3, height, width), uint8.

    Raises:
        UserError: If the file is missing, damaged or not a picture.
    """
    path = Path(path)
    if not is_there(path):
        raise UserError(f"{path} does not exist")
    with os_errors_as_user_errors("cannot read the picture"):
        data = path.read_bytes()
    return decode_photo(data, str(path))


def photo_size(path: Path) -> tuple[int, int]:
    """Read the size of a picture, upright as its EXIF orientation says, without decoding its pixels.

    Args:
        path: The file.

    Returns:
        Height and width in pixels.

    Raises:
        UserError: If the file is missing, damaged or not a picture.
    """
    from PIL import Image

    if not is_there(path):
        raise UserError(f"{path} does not exist")
    register_heif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                width, height = picture.size
                is_turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception as error:  # Pillow's decoders raise exceptions of any class for damaged input
        raise UserError(f"{path} cannot be read as a picture: {_reason(error)}") from error
    return (width, height) if is_turned else (height, width)


def decode_photo(data: bytes, name: str) -> UInt8[Tensor, "3 height width"]:
    """Decode the bytes of a picture file as `read_photo` does.

    Args:
        data: Contents of the file.
        name: Name of the file, for the message.

    Returns:
        The image, of shape (3, height, width), uint8.

    Raises:
        UserError: If the bytes are damaged or not a picture.
    """
    with opened_picture(data, name) as picture:
        return to_rgb_tensor(picture, name)


def register_heif() -> None:
    """Let Pillow open HEIC and HEIF files."""
    from pillow_heif import register_heif_opener

    register_heif_opener()


@contextmanager
def opened_picture(data: bytes, name: str) -> "Iterator[Image.Image]":
    """Open the bytes of a picture file with Pillow, HEIC and HEIF files with pillow-heif.

    Args:
        data: Contents of the file.
        name: Name of the file, for the message.

    Yields:
        The picture, at its first frame.

    Raises:
        UserError: If the bytes are damaged or not a picture, in place of any error in the block.
    """
    from PIL import Image

    if not data:
        raise UserError(f"{name} is empty; wanted a picture")
    register_heif()
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged metadata and of large pictures, which are read.
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data)) as picture:
                yield picture
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of any class for damaged input
        raise UserError(f"{name} cannot be read as a picture: {_reason(error)}") from error


def to_rgb_tensor(picture: "Image.Image", name: str) -> UInt8[Tensor, "3 height width"]:
    """Convert the current frame of an open picture as `read_photo` does.

    Args:
        picture: The picture.
        name: Name of the file, for the message.

    Returns:
        The image, of shape (3, height, width), uint8.

    Raises:
        UserError: If its pixels are floats.
    """
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    upright.load()
    if upright.mode == "F":
        raise UserError(f"{name} cannot be read as a picture: its pixels are floats; wanted 8 or 16 bits")
    return torch.from_numpy(_rgb(upright)).permute(2, 0, 1).contiguous()


def list_photos(folder: str | Path) -> list[Path]:
    """List the pictures in a folder, without hidden files and subfolders.

    Args:
        folder: An existing folder.

    Returns:
        Paths in natural order (``img2`` before ``img10``).

    Raises:
        UserError: If there is no such folder or it is a file.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"{folder} does not exist")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; wanted a folder of pictures")
    with os_errors_as_user_errors("cannot list the pictures"):
        photos = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".") and path.is_file()
        ]
    return sorted(photos, key=natural_order)


def write_jpeg(path: str | Path, image: UInt8[Tensor, "3 height width"], quality: int = 92) -> None:
    """Write an RGB image as JPEG.

    Args:
        path: The file to write or replace, under any name.
        image: The image, of shape (3, height, width), on any device.
        quality: JPEG quality from 1 to 100.

    Raises:
        ValueError: If `quality` is out of range.
        UserError: If the file cannot be written.
    """
    from PIL import Image

    if not 1 <= quality <= 100:
        raise ValueError(f"quality = {quality}; wanted 1 to 100")
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    with os_errors_as_user_errors(f"cannot write {path}"):
        picture.save(path, format="JPEG", quality=quality)


def _rgb(picture: "Image.Image") -> UInt8[np.ndarray, "height width 3"]:
    if picture.mode.startswith("I"):
        # Pillow would clip sixteen-bit gray values at 255. All of them (mode "I" in older versions too) are scaled.
        levels = np.asarray(picture).astype(np.float64).clip(0, 65535) / 257
        return np.repeat(levels.round().astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # converting to RGB directly gives the same pixels with a warning
    return np.array(picture.convert("RGB"))


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """Compute a key that sorts names with numbers as people do: ``img2`` before ``img10``.

    Args:
        path: A file.

    Returns:
        The key.
    """
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], path.name


def _reason(error: Exception) -> str:
    """Describe an error of Pillow, whose message for unknown bytes names an object in memory."""
    reason = one_line(error)
    return "it is damaged, or of a format that is not read" if "object at 0x" in reason else reason
