"""Positions of pictures from the GPS fields of their EXIF metadata, in meters east, north and up."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from recon4d.errors import UserError
from recon4d.io.photos import opened_picture
from recon4d.records import Clip

GPS_FIELDS = 0x8825
"""Number of the EXIF directory of GPS fields."""
LATITUDE, LONGITUDE, ALTITUDE_SIGN, ALTITUDE, ERROR = 2, 4, 5, 6, 31
"""Numbers of the fields; the hemispheres of latitude and longitude are one lower."""
DEFAULT_ERROR = 5.0
"""Standard error of a position in meters, if pictures do not state it: that of phones under open sky (van Diggelen and
Enge 2015, "The World's first GPS MOOC and Worldwide Laboratory using Smartphones": 4.9 m)."""
SEMI_MAJOR_AXIS, FLATTENING = 6378137.0, 1 / 298.257223563
"""Ellipsoid of WGS 84: the equatorial radius in meters and the flattening."""


@dataclass(frozen=True)
class GpsPositions:
    """Measured positions of the frames of a clip."""

    positions: Float64[Tensor, "time 3"]
    """East, north and up in meters from the first position; NaN for frames without."""
    error: float
    """Standard error of a horizontal position in meters: the median that pictures state, or `DEFAULT_ERROR`."""

    def repeated(self, times: int) -> "GpsPositions":
        """Repeat all positions, for views of the same pictures.

        Args:
            times: Number of repetitions.

        Returns:
            The positions, one after the other so many times.
        """
        return GpsPositions(self.positions.repeat(times, 1), self.error)


def read_gps(clip: Clip) -> GpsPositions:
    """Read the positions of the pictures of a clip.

    Args:
        clip: A clip of picture files.

    Returns:
        The positions. Without altitudes in all of them, all are at one height.

    Raises:
        UserError: If no picture has a position.
    """
    source = clip.source
    found: list[tuple[float, float, float, float] | None] = [None] * clip.num_frames
    if source is not None and Path(source.path).exists():
        path = Path(source.path)
        found = [_read_position(path / name if path.is_dir() else path) for name in source.names]
    known = [one for one in found if one is not None]
    if not known:
        place = "the clip" if source is None else source.path
        raise UserError(f"{place} has no GPS positions in the EXIF metadata of its pictures; wanted at least 3")
    has_altitudes = all(math.isfinite(one[2]) for one in known)
    fixed = torch.full((clip.num_frames, 3), torch.nan, dtype=torch.float64)
    for frame, one in enumerate(found):
        if one is not None:
            fixed[frame] = earth_centered(one[0], one[1], one[2] if has_altitudes else 0.0)
    errors = sorted(one[3] for one in known if math.isfinite(one[3]))
    latitude, longitude = known[0][:2]
    origin = earth_centered(latitude, longitude, known[0][2] if has_altitudes else 0.0)
    positions = (fixed - origin) @ _east_north_up(latitude, longitude).T
    return GpsPositions(positions, errors[len(errors) // 2] if errors else DEFAULT_ERROR)


def earth_centered(latitude: float, longitude: float, altitude: float) -> Float64[Tensor, "3"]:
    """Convert a geodetic position to Earth-centered coordinates (WGS 84).

    Args:
        latitude: Degrees north.
        longitude: Degrees east.
        altitude: Meters above the ellipsoid.

    Returns:
        Coordinates in meters.
    """
    phi, lam = math.radians(latitude), math.radians(longitude)
    squared_eccentricity = FLATTENING * (2 - FLATTENING)
    radius = SEMI_MAJOR_AXIS / math.sqrt(1 - squared_eccentricity * math.sin(phi) ** 2)
    horizontal = (radius + altitude) * math.cos(phi)
    return torch.tensor(
        [
            horizontal * math.cos(lam),
            horizontal * math.sin(lam),
            (radius * (1 - squared_eccentricity) + altitude) * math.sin(phi),
        ],
        dtype=torch.float64,
    )


def _east_north_up(latitude: float, longitude: float) -> Float64[Tensor, "3 3"]:
    """Rows are the directions east, north and up in Earth-centered coordinates."""
    phi, lam = math.radians(latitude), math.radians(longitude)
    return torch.tensor(
        [
            [-math.sin(lam), math.cos(lam), 0],
            [-math.sin(phi) * math.cos(lam), -math.sin(phi) * math.sin(lam), math.cos(phi)],
            [math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi)],
        ],
        dtype=torch.float64,
    )


def _read_position(path: Path) -> tuple[float, float, float, float] | None:
    """Latitude and longitude in degrees, altitude and horizontal error in meters (NaN if unknown); None without."""
    try:
        with opened_picture(path.read_bytes(), str(path)) as picture:
            fields = dict(picture.getexif().get_ifd(GPS_FIELDS))
    except (UserError, OSError):  # no file any more, or a frame of a video
        return None
    latitude = _degrees(fields.get(LATITUDE), fields.get(LATITUDE - 1), "S")
    longitude = _degrees(fields.get(LONGITUDE), fields.get(LONGITUDE - 1), "W")
    if latitude is None or longitude is None or not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return None
    if latitude == longitude == 0:  # written by cameras without reception
        return None
    sign = fields.get(ALTITUDE_SIGN)
    altitude = _number(fields.get(ALTITUDE)) * (-1 if sign in (1, b"\x01") else 1)
    error = _number(fields.get(ERROR))
    return latitude, longitude, altitude, error if error > 0 else math.nan


def _degrees(values: Any, hemisphere: Any, negative: str) -> float | None:
    """Degrees from degrees, minutes and seconds; None if they are missing or damaged."""
    try:
        parts = [_number(value) for value in values]
    except TypeError:
        return None
    if not 1 <= len(parts) <= 3 or not all(map(math.isfinite, parts)):
        return None
    degrees = sum(part / 60**place for place, part in enumerate(parts))
    name = hemisphere.decode("ascii", "replace") if isinstance(hemisphere, bytes) else str(hemisphere)
    return -degrees if name.strip("\0 ").upper().startswith(negative) else degrees


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan
