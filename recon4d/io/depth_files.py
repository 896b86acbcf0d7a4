"""Reading of one depth map: 16-bit PNG or TIFF, float TIFF, OpenEXR, PFM, npy or npz."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from recon4d.errors import UserError, one_line, os_errors_as_user_errors
from recon4d.io.file_errors import NPZ_DAMAGE, is_there
from recon4d.io.npz_arrays import load_arrays
from recon4d.io.photos import opened_picture

MAP_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".exr", ".pfm", ".npy", ".npz"})
"""Lower-case suffixes of the files that hold one depth map."""
WANTED_MAPS = "16-bit PNG or TIFF, float TIFF, EXR, PFM, npy or npz files"
"""What depth maps may be, for messages."""
METERS_PER_STEP = 0.001
"""Length in meters of a step of whole numbers unless given: millimeters, as sensors (Kinect, RealSense, LiDAR of
phones) and most data sets write them."""
MAX_DEPTH = 1e6
"""Depths above this are the background of renderers (Blender writes 1e10), not surfaces."""
MAX_PIXELS = 2**27
"""Largest number of pixels of an EXR file that is read, so that a damaged header does not exhaust the memory."""
_EXR_CHANNELS = ("z", "depth", "y", "v", "r")
"""Last parts of the names of channels with depth, in the order of preference; other files have a single channel."""


@dataclass(frozen=True)
class DepthMap:
    """A depth map as stored."""

    values: Float32[np.ndarray, "height width"]
    """Depths in meters if they were whole numbers, otherwise as stored; NaN where unknown."""
    format: str
    """Format and unit, for the user."""
    is_metric: bool
    """Whether the values are in meters."""


def read_depth_map(path: Path, unit: float | None = None) -> DepthMap:
    """Read a depth map.

    Args:
        path: The file.
        unit: Factor from stored values to the unit of the depths. None stands for 0.001 for whole numbers, which are
            then millimeters, and for 1 for floats.

    Returns:
        The map.

    Raises:
        UserError: If the file is missing or damaged, or is no depth map.
    """
    if not (is_there(path) and path.is_file()):
        raise UserError(f"depth {path}: it is no file; wanted {WANTED_MAPS}")
    stored, kind = _read_values(path)
    if stored.ndim == 3:  # one of the axes is a channel
        stored = stored.squeeze(axis=tuple(axis for axis in (0, 2) if stored.shape[axis] == 1)[:1])
    if stored.ndim != 2 or 0 in stored.shape:
        raise UserError(f"depth {path}: its values have shape {stored.shape}; wanted (height, width)")
    return convert_depths(stored, kind, unit, str(path))


def convert_depths(stored: np.ndarray, kind: str, unit: float | None, name: str) -> DepthMap:
    """Convert stored values to depths.

    Args:
        stored: Numbers of shape (height, width).
        kind: Name of the format, for the user.
        unit: As for `read_depth_map`.
        name: Name of the file, for the message.

    Returns:
        The depths; NaN at values that are not finite, not above 0, above `MAX_DEPTH`, or the largest of a format of 16
        bits.

    Raises:
        UserError: If the values are not numbers, or whole numbers of 8 bits without a unit.
    """
    if stored.dtype.kind not in "fiu":
        raise UserError(f"depth {name}: it holds values of type {stored.dtype}; wanted numbers")
    is_whole = stored.dtype.kind in "iu"
    if is_whole and stored.dtype.itemsize == 1 and unit is None:
        raise UserError(
            f"depth {name}: its values have 8 bits, like a picture of depth for viewing; wanted 16 bits or floats, or "
            "the unit of the values"
        )
    largest = 65504.0 if stored.dtype == np.float16 else 65535.0 if stored.dtype == np.uint16 else np.inf
    scale = unit if unit is not None else METERS_PER_STEP if is_whole else 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float64)
        is_known = np.isfinite(values) & (values > 0) & (values < largest)
        depths = np.where(is_known, values * scale, np.nan)
        depths = np.where(depths <= MAX_DEPTH, depths, np.nan).astype(np.float32)
    if unit is not None:
        described = f"{kind}, values times {unit:g}"
    else:
        described = f"{kind} in millimeters" if is_whole else f"{kind} in the unit of the values"
    return DepthMap(depths, described, is_whole and unit is None)


def read_npy(path: Path) -> np.ndarray:
    """Read an npy file.

    Args:
        path: The file.

    Returns:
        Its array, of any shape and type.

    Raises:
        UserError: If the file cannot be read or is damaged.
    """
    try:
        with os_errors_as_user_errors(f"cannot read depth {path}"):
            return np.load(path, allow_pickle=False)
    except NPZ_DAMAGE as error:
        raise UserError(f"depth {path}: it cannot be read as npy: {one_line(error)}") from error


def _read_values(path: Path) -> tuple[np.ndarray, str]:
    """Read the stored values of a file, and the name of its format."""
    suffix = path.suffix.lower()
    if suffix == ".exr":
        return _read_exr(path), "EXR"
    if suffix == ".npz":
        return _read_npz(path), "npz"
    with os_errors_as_user_errors(f"cannot read depth {path}"):
        data = path.read_bytes()
    if suffix == ".npy":
        values = read_npy(path)
        return values, f"npy of {values.dtype}"
    if suffix == ".pfm":
        return _parse_pfm(data, path), "PFM"
    with opened_picture(data, f"depth {path}") as picture:
        if picture.mode not in ("L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"):
            raise UserError(f"depth {path}: it is a picture in color, like one for viewing; wanted {WANTED_MAPS}")
        values = np.array(picture)
        kind = f"{'float' if picture.mode == 'F' else '8-bit' if picture.mode == 'L' else '16-bit'} {picture.format}"
    # Some versions of Pillow return sixteen bits as int32.
    return values.astype(np.uint16) if values.dtype == np.int32 and values.max(initial=0) <= 65535 else values, kind


def _read_npz(path: Path) -> np.ndarray:
    arrays = load_arrays(path)
    for name in ("depth", "depths", "arr_0", "data"):
        if name in arrays:
            return arrays[name]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    raise UserError(f"depth {path}: it holds the arrays {sorted(arrays)}; wanted one called depth")


def _read_exr(path: Path) -> np.ndarray:
    import OpenEXR

    try:
        header = OpenEXR.File(str(path), header_only=True).header()
        low, high = header["dataWindow"]
        width, height = (int(value) for value in np.asarray(high).astype(np.int64) - np.asarray(low) + 1)
        if not 0 < width * height <= MAX_PIXELS:
            raise UserError(f"depth {path}: its header says {width} x {height} pixels, so it is damaged")
        channels = OpenEXR.File(str(path), separate_channels=True).channels()
        values = {name: np.asarray(channel.pixels) for name, channel in channels.items()}
    except UserError:
        raise
    except Exception as error:  # OpenEXR raises exceptions of several classes for damaged input
        raise UserError(f"depth {path}: it cannot be read as EXR: {one_line(error)}") from error
    named = {name.rpartition(".")[2].lower(): array for name, array in reversed(list(values.items()))}
    for name in _EXR_CHANNELS:
        if name in named:
            return named[name]
    if len(values) != 1:
        raise UserError(f"depth {path}: it has the channels {', '.join(values)}; wanted one called Z")
    return next(iter(values.values()))


def _parse_pfm(data: bytes, path: Path) -> np.ndarray:
    """Parse a gray PFM file: ``Pf``, width and height, a scale whose sign is the byte order, rows from the bottom."""
    try:
        kind, size, scale, values = data.split(b"\n", 3)
        width, height = (int(number) for number in size.split())
        order = "<f4" if float(scale) < 0 else ">f4"
        if kind.strip() != b"Pf" or min(width, height) < 1:
            raise ValueError("it is no gray PFM")
        return np.frombuffer(values, order, width * height).reshape(height, width)[::-1].astype(np.float32)
    except (ValueError, OverflowError) as error:
        raise UserError(f"depth {path}: it cannot be read as PFM: {one_line(error)}") from error
