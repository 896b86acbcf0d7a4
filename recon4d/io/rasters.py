"""Pictures that hold numbers rather than colors: depth, masks and ids, exactly as stored."""

from pathlib import Path

import numpy as np


def read_raster(path: str | Path) -> np.ndarray:
    """The stored values of a PNG or TIFF: (height, width) or (height, width, channels), uint8, uint16 or float32.

    A palette picture answers its colors. Raises ``FileNotFoundError``, or ``ValueError`` naming a damaged file.
    """
    from PIL import Image

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB") if opened.mode == "P" else opened
            values = np.array(picture)
    except Exception as error:  # Pillow's decoders raise whatever their damaged input leads them to.
        raise ValueError(f"{path} cannot be read as a picture: {' '.join(str(error).split())}") from error
    # Sixteen bits come as int32 from some versions of Pillow.
    return values.astype(np.uint16) if values.dtype == np.int32 else values


def write_raster(path: str | Path, values: np.ndarray) -> None:
    """Write uint8 (gray or RGB) or uint16 values as PNG, or float32 values as TIFF, by the ending of `path`."""
    from PIL import Image

    path = Path(path)
    wanted = {".png": ("uint8", "uint16"), ".tif": ("float32",), ".tiff": ("float32",)}.get(path.suffix.lower(), ())
    if values.dtype.name not in wanted:
        raise ValueError(f"{path.name} cannot hold {values.dtype.name}; PNG holds uint8 and uint16, TIFF float32")
    Image.fromarray(np.ascontiguousarray(values)).save(path)
