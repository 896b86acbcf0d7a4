"""Reading and writing of pictures whose values are numbers (depth, masks, ids), exactly as stored."""

from pathlib import Path

import numpy as np

from recon4d.errors import UserError, one_line, os_errors_as_user_errors
from recon4d.io.file_errors import is_there


def read_raster(path: str | Path) -> np.ndarray:
    """Read the stored values of a PNG or TIFF file.

    Args:
        path: The file. Palette pictures are converted to their colors.

    Returns:
        Values of shape (height, width) or (height, width, channels), uint8, uint16, float32 or, for one-bit pictures,
        bool.

    Raises:
        UserError: If the file is missing, damaged or not a picture.
    """
    from PIL import Image

    path = Path(path)
    if not is_there(path):
        raise UserError(f"{path} does not exist")
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB") if opened.mode == "P" else opened
            values = np.array(picture)
    except Exception as error:  # Pillow's decoders raise exceptions of any class for damaged input
        raise UserError(f"{path} cannot be read as a picture: {one_line(error)}") from error
    # Some versions of Pillow return sixteen bits as int32.
    return values.astype(np.uint16) if values.dtype == np.int32 else values


def write_raster(path: str | Path, values: np.ndarray) -> None:
    """Write values as PNG or TIFF, by the suffix of the path.

    Args:
        path: A file ending in ``.png`` for uint8 (gray or RGB) and uint16, or in ``.tif`` or ``.tiff`` for float32.
        values: Values of shape (height, width) or (height, width, 3).

    Raises:
        ValueError: If the format cannot hold the type of the values.
        UserError: If the file cannot be written.
    """
    from PIL import Image

    path = Path(path)
    wanted = {".png": ("uint8", "uint16"), ".tif": ("float32",), ".tiff": ("float32",)}.get(path.suffix.lower(), ())
    if values.dtype.name not in wanted:
        raise ValueError(f"{path.name} cannot hold {values.dtype.name}; PNG holds uint8 and uint16, TIFF float32")
    picture = Image.fromarray(np.ascontiguousarray(values))
    with os_errors_as_user_errors(f"cannot write {path}"):
        picture.save(path)
