"""Reading of the images and maps of a clip."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from recon4d.errors import DataError
from recon4d.io import read_photo, read_raster
from recon4d.io.file_errors import data_errors


def read_images(sequence: str, paths: Sequence[Path]) -> UInt8[Tensor, "time 3 height width"]:
    """Read images of equal size.

    Args:
        sequence: Name of the sequence, for error messages.
        paths: At least one image file.

    Returns:
        RGB images.

    Raises:
        DataError: If a file is missing or damaged, or differs in size from the first.
    """
    images: list[Tensor] = []
    for path in paths:
        with data_errors(sequence, path):
            image = read_photo(path)
        images.append(image)
        if image.shape != images[0].shape:
            reason = f"has {_format_size(image)} pixels (width x height), but the first frame {_format_size(images[0])}"
            raise DataError(sequence, path, reason)
    return torch.stack(images)


def read_map(sequence: str, path: Path, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Read a PNG or TIFF that holds numbers, such as depth or segmentation.

    Args:
        sequence: Name of the sequence, for error messages.
        path: The file.
        dtypes: Names of the allowed data types, such as "uint16".
        shape: Required shape, (height, width) or (height, width, channels).

    Returns:
        The stored values.

    Raises:
        DataError: If the file is missing or damaged, or has another data type or shape.
    """
    with data_errors(sequence, path):
        values = read_raster(path)
    if values.dtype.name not in dtypes or values.shape != shape:
        found = f"{values.dtype.name} of shape {values.shape}"
        raise DataError(sequence, path, f"holds {found}, wanted {' or '.join(dtypes)} of shape {shape}")
    return values


def _format_size(image: Tensor) -> str:
    return f"{image.shape[-1]} x {image.shape[-2]}"
