"""Writing of a map of floats as an OpenEXR file: one part, scan lines, no compression.

The layout follows "The OpenEXR File Layout" (openexr.com): magic number and version, attributes, a table of the offsets
of the lines, and for each line its number, its length in bytes and its values, little-endian.
"""

import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float32

MAGIC, VERSION = 20000630, 2
"""Magic number and version of the file format."""
FLOAT = 2
"""Code of the pixel type of 32-bit floats."""
NO_COMPRESSION, INCREASING_Y = b"\x00", b"\x00"
"""Codes of the compression and of the order of lines."""


def write_exr(path: str | Path, values: Float32[np.ndarray, "height width"], channel: str = "Z") -> None:
    """Write a map bit for bit as an EXR file with one channel.

    Args:
        path: The file to write or replace.
        values: float32 values of shape (height, width).
        channel: Name of the channel in ASCII; "Z" is the name for depth in the format.
    """
    height, width = values.shape
    header = _header(height, width, channel)
    line_bytes = 4 * width
    beginning = len(header) + 8 * height
    offsets = beginning + np.arange(height, dtype="<u8") * (8 + line_bytes)
    lines = np.empty(height, np.dtype([("y", "<i4"), ("size", "<i4"), ("values", "<f4", (width,))]))
    lines["y"], lines["size"], lines["values"] = np.arange(height), line_bytes, values
    Path(path).write_bytes(header + offsets.tobytes() + lines.tobytes())


def _header(height: int, width: int, channel: str) -> bytes:
    # A channel consists of name, type, linearity, three padding bytes, and the sampling along x and y.
    channels = channel.encode("ascii") + b"\0" + struct.pack("<iB3xii", FLOAT, 0, 1, 1) + b"\0"
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = (
        _attribute("channels", "chlist", channels),
        _attribute("compression", "compression", NO_COMPRESSION),
        _attribute("dataWindow", "box2i", window),
        _attribute("displayWindow", "box2i", window),
        _attribute("lineOrder", "lineOrder", INCREASING_Y),
        _attribute("pixelAspectRatio", "float", struct.pack("<f", 1)),
        _attribute("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
        _attribute("screenWindowWidth", "float", struct.pack("<f", 1)),
    )
    return struct.pack("<2i", MAGIC, VERSION) + b"".join(attributes) + b"\0"


def _attribute(name: str, kind: str, value: bytes) -> bytes:
    return f"{name}\0{kind}\0".encode("ascii") + struct.pack("<i", len(value)) + value
