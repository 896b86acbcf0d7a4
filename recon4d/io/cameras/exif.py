"""Focal length of a picture from its EXIF fields."""

import math
from pathlib import Path

EXIF_FIELDS = 0x8769
"""Number of the EXIF directory."""
FOCAL_LENGTH_35MM = 0xA405
"""Number of the field with the focal length of a 35 mm camera of the same field of view, in millimeters."""
DIAGONAL_35MM = math.hypot(36, 24)
"""Diagonal of a picture of a 35 mm camera in millimeters."""


def read_exif_focal(path: Path, size: tuple[int, int]) -> float | None:
    """Read the focal length of a picture. It is only as accurate as the camera states it: a few percent.

    Args:
        path: The picture.
        size: Height and width of the picture in pixels.

    Returns:
        The focal length in pixels; None if the picture does not state it.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            value = float(picture.getexif().get_ifd(EXIF_FIELDS).get(FOCAL_LENGTH_35MM, 0))
    except Exception:  # Pillow raises exceptions of any class
        return None
    return value / DIAGONAL_35MM * math.hypot(*size) if math.isfinite(value) and value > 0 else None
