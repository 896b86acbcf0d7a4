"""Animations and other picture files with several frames (WebP, PNG, AVIF, HEIF, TIFF), read with Pillow.

Videos and GIF are read with PyAV (`videos`), which does not decode animated WebP.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import UInt8
from torch import Tensor

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.io.photos import opened_picture, register_heif, to_rgb_tensor

if TYPE_CHECKING:
    from PIL import Image

ANIMATED_FORMATS = frozenset({"WEBP", "PNG", "AVIF", "HEIF", "TIFF"})
"""Pillow's names of the formats whose further frames are frames of a clip. Those of others, such as the second picture
of a JPEG with a gain map (MPO), are not."""
ANIMATED_SUFFIXES = frozenset({".webp", ".png", ".apng", ".avif", ".heic", ".heif", ".hif", ".tif", ".tiff"})
"""Lower-case suffixes of files that may hold an animation."""
DEFAULT_DURATION = 0.1
"""Seconds of a frame whose duration is 0 or missing in an animation with times: what web browsers use."""
MAX_PIXELS = 2**26
"""Largest number of pixels of a frame, twice that of an 8K video, so that a damaged header does not cost minutes."""
_NEW_SUBFILE_TYPE = 254
"""TIFF tag whose bits 0 and 2 mark a smaller version of another page and a transparency mask."""


@dataclass(frozen=True)
class Animation:
    """A picture file with several frames."""

    path: Path
    """The file."""
    pages: tuple[int, ...]
    """Position of each frame in the file, ascending."""
    times: tuple[float, ...]
    """Time of each frame in seconds from the first; NaN in every frame if the file has no times."""

    @property
    def has_times(self) -> bool:
        """Whether the file tells how long its frames are shown."""
        return math.isfinite(self.times[0])


def open_animation(path: str | Path) -> Animation | None:
    """Find the frames of a picture file.

    Args:
        path: An existing file.

    Returns:
        The animation; None if the file holds a single picture.

    Raises:
        UserError: If the file cannot be read or is damaged.
    """
    path = Path(path)
    if path.suffix.lower() not in ANIMATED_SUFFIXES:
        return None
    with os_errors_as_user_errors("cannot read the picture"):
        data = path.read_bytes()
    with opened_picture(data, str(path)) as picture:
        count = getattr(picture, "n_frames", 1)
        if count < 2 or picture.format not in ANIMATED_FORMATS:
            return None
        if picture.width * picture.height > MAX_PIXELS:
            raise UserError(f"{path} has frames of {picture.width} x {picture.height} pixels, so it is damaged")
        pages, durations = [], []
        for page in range(1 if picture.info.get("default_image") else 0, count):
            if not _seek(picture, page):
                continue
            pages.append(page)
            durations.append(_duration(picture))
    return None if len(pages) < 2 else Animation(path, tuple(pages), _times(durations))


def has_several_frames(path: Path) -> bool:
    """Check by its header whether a picture file is an animation.

    Args:
        path: An existing file.

    Returns:
        True for animations, GIF included; False for single pictures, and for files that cannot be opened.
    """
    from PIL import Image

    if path.suffix.lower() not in ANIMATED_SUFFIXES | {".gif"}:
        return False
    try:
        register_heif()
        with Image.open(path) as picture:
            return getattr(picture, "n_frames", 1) > 1 and picture.format in ANIMATED_FORMATS | {"GIF"}
    except Exception:  # Pillow raises exceptions of any class for damaged input, which is reported when it is read
        return False


def read_animation(animation: Animation, numbers: Sequence[int]) -> Iterator[UInt8[Tensor, "3 height width"]]:
    """Decode some frames of an animation.

    Args:
        animation: The animation.
        numbers: Frame numbers in ascending order, from 0.

    Yields:
        RGB image of shape (3, height, width) for each number. Transparent pixels have their hidden color.

    Raises:
        UserError: If the file cannot be read or is damaged.
    """
    with os_errors_as_user_errors("cannot read the picture"):
        data = animation.path.read_bytes()
    with opened_picture(data, str(animation.path)) as picture:
        for number in numbers:
            picture.seek(animation.pages[number])
            yield to_rgb_tensor(picture, str(animation.path))


def _seek(picture: "Image.Image", page: int) -> bool:
    """Go to a page of the file, and return whether it is a frame of its own."""
    picture.seek(page)
    picture.load()
    kind = getattr(picture, "tag_v2", {}).get(_NEW_SUBFILE_TYPE, 0)
    return not kind & 0b101


def _duration(picture: "Image.Image") -> float:
    """Duration of the current frame in seconds; NaN if the file does not tell."""
    value = picture.info.get("duration")
    return float(value) / 1000 if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _times(durations: Sequence[float]) -> tuple[float, ...]:
    """Times of the frames; NaN if no frame has a duration."""
    if not any(duration > 0 for duration in durations):
        return (math.nan,) * len(durations)
    times = [0.0]
    for duration in durations[:-1]:
        times.append(times[-1] + (duration if duration > 0 else DEFAULT_DURATION))
    return tuple(times)
