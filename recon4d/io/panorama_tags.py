"""Panoramas by their metadata: XMP of pictures (GPano) and spherical metadata of videos.

Tags of pictures are those of Google's Photo Sphere (developers.google.com/streetview/spherical-metadata), which phones
and 360 degree cameras write. Those of videos are Google's Spherical Video V1 and V2, as FFmpeg reads them.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from recon4d.errors import UserError
from recon4d.io.containers import open_container
from recon4d.io.photos import PHOTO_SUFFIXES, opened_picture

PROJECTIONS = (
    *("equirectangular", "cubemap", "tiled equirectangular", "half equirectangular", "rectilinear", "fisheye"),
    "parametric immersive",
)
"""Projections of spherical videos, by the numbers of FFmpeg's ``AVSphericalProjection``."""
_GPANO = rb"GPano:%s(?:\s*=\s*[\"']|\s*>)\s*([^\"'<\s]+)"
"""A GPano property, as an attribute or as an element."""


@dataclass(frozen=True)
class PanoramaArea:
    """The part of a sphere that an equirectangular picture shows, in pixels of the whole sphere."""

    full_width: int
    """Width of the whole sphere, 360 degrees."""
    full_height: int
    """Height of the whole sphere, 180 degrees."""
    left: int = 0
    """Columns to the left of the picture."""
    top: int = 0
    """Rows above the picture."""
    width: int = 0
    """Width of the picture in pixels of the whole sphere; 0 for all of it."""
    height: int = 0
    """Height of the picture in pixels of the whole sphere; 0 for all of it."""


def read_panorama_area(path: Path) -> PanoramaArea | None:
    """Read whether the metadata of a picture say that it is an equirectangular panorama.

    Args:
        path: A picture.

    Returns:
        The part of the sphere that it shows; None if it has no such metadata, or is no picture.
    """
    if path.suffix.lower() not in PHOTO_SUFFIXES:
        return None
    try:
        with opened_picture(path.read_bytes(), str(path)) as picture:
            xmp = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp") or b""
            size = picture.size
    except (UserError, OSError):  # told when the picture is read
        return None
    return parse_panorama_area(xmp.encode() if isinstance(xmp, str) else xmp, size)


def parse_panorama_area(xmp: bytes, size: tuple[int, int]) -> PanoramaArea | None:
    """Parse the GPano properties of XMP.

    Args:
        xmp: The XMP packet; b"" if there is none.
        size: Width and height of the picture, for a packet without sizes.

    Returns:
        The part of the sphere; None if the packet does not describe an equirectangular picture.
    """
    if (_property(xmp, b"ProjectionType") or b"").lower() != b"equirectangular":
        return None
    names = (b"FullPanoWidthPixels", b"FullPanoHeightPixels", b"CroppedAreaLeftPixels", b"CroppedAreaTopPixels")
    full_width, full_height, left, top = (_number(xmp, name) for name in names)
    width, height = (_number(xmp, name) for name in (b"CroppedAreaImageWidthPixels", b"CroppedAreaImageHeightPixels"))
    area = PanoramaArea(full_width, full_height, left, top, width or full_width, height or full_height)
    is_inside = area.left + area.width <= full_width and area.top + area.height <= full_height
    if not (full_width > 0 and full_height > 0 and area.width > 0 and area.height > 0 and is_inside):
        return PanoramaArea(size[0], size[1], 0, 0, size[0], size[1])
    return area


def read_video_projection(path: Path) -> str | None:
    """Read how the metadata of a video say that it shows a sphere.

    Args:
        path: A video.

    Returns:
        "equirectangular" or another projection (`PROJECTIONS`); None for ordinary videos and files that are no videos.
    """
    from av.error import FFmpegError

    try:
        with open_container(path) as container:
            mapping = next(container.decode(video=0)).side_data.get("SPHERICAL")
    except (FFmpegError, StopIteration, OSError, ValueError, IndexError):
        return None
    if mapping is None:
        return None
    number = int.from_bytes(bytes(mapping)[:4], sys.byteorder)
    name = PROJECTIONS[number] if number < len(PROJECTIONS) else "unknown"
    return None if name in ("rectilinear", "unknown") else name


def _property(xmp: bytes, name: bytes) -> bytes | None:
    found = re.search(_GPANO % name, xmp)
    return None if found is None else found[1]


def _number(xmp: bytes, name: bytes) -> int:
    """A whole number of pixels; 0 if it is not given or no number."""
    text = _property(xmp, name) or b"0"
    return int(float(text)) if re.fullmatch(rb"\d{1,7}(\.\d{1,9})?", text) else 0
