"""Conversion of images and times as people have them (numpy arrays, tensors, lists) to the tensors of a clip."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.errors import UserError

WANTED_IMAGES = (
    "images of shape (time, height, width, 3) or (time, 3, height, width), uint8 from 0 to 255 or floating point from "
    "0 to 1, as a numpy array, a tensor or a list of images"
)
"""What images of a clip may be, for messages."""


def as_image_tensor(images: Any, allow_single: bool = False) -> UInt8[Tensor, "*batch time 3 height width"]:
    """Convert images to the layout of a clip.

    Args:
        images: A numpy array, a tensor, or a list of arrays, tensors or Pillow images of one size; uint8 or floating
            point in [0, 1], with color as the last axis or as the third from last. If both have length 3, color is the
            last axis of numpy arrays and the third from last of tensors.
        allow_single: Whether a single image without a time axis counts as a clip of one frame.

    Returns:
        Images of shape (*batch, time, 3, height, width), uint8. A tensor of this shape is returned itself.

    Raises:
        UserError: If the images have another type, shape, range or number of channels.
    """
    is_array = not isinstance(images, Tensor)
    tensor = _to_tensor(images) if is_array else images
    if allow_single and tensor.ndim == 3:
        tensor = tensor[None]
    shape = tuple(tensor.shape)
    if len(shape) < 4 or 3 not in (shape[-1], shape[-3]) or 0 in shape[-4:]:
        raise UserError(f"Clip.images has shape {shape}, wanted (*batch time 3 height width): {WANTED_IMAGES}")
    tensor = _to_bytes(tensor)
    is_channels_last = shape[-1] == 3 and (is_array or shape[-3] != 3)
    return tensor.movedim(-1, -3).contiguous() if is_channels_last else tensor


def as_times(times: Any, num_frames: int) -> Float[Tensor, "*batch time"]:
    """Convert times to a tensor.

    Args:
        times: A tensor, an array or a list of seconds; None for images without times.
        num_frames: Number of frames, for images without times.

    Returns:
        Times in seconds; NaN if there are none. A tensor of floats is returned itself.

    Raises:
        UserError: If the times are not numbers.
    """
    if times is None:
        return torch.full((num_frames,), torch.nan)
    if isinstance(times, Tensor):
        return times if times.is_floating_point() else times.float()
    try:
        return torch.from_numpy(np.asarray(times, dtype=np.float32).copy())
    except (TypeError, ValueError) as error:
        raise UserError(f"Clip.times is {times!r}; wanted one number of seconds for each frame, or None") from error


def _to_bytes(images: Tensor) -> UInt8[Tensor, "*shape"]:
    """Convert floating-point images in [0, 1] to uint8, and check that others are."""
    if images.dtype == torch.uint8:
        return images
    given = str(images.dtype).removeprefix("torch.")
    if not images.is_floating_point():
        raise UserError(f"Clip.images has dtype {given}, wanted UInt8: {WANTED_IMAGES}")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(f"Clip.images has values from {low:g} to {high:g} of dtype {given}, wanted {WANTED_IMAGES}")
    return (images * 255).round().to(torch.uint8)


def _to_tensor(images: Any) -> Tensor:
    """Convert an array or a list of images, which share memory with the result if possible."""
    if isinstance(images, list | tuple):
        images = _stack(images)
    array = np.asarray(images)
    if array.dtype == object or array.dtype.kind not in "uifb":
        raise UserError(f"Clip.images is a {type(images).__name__}, wanted {WANTED_IMAGES}")
    # Tensors cannot be read-only, and have no unsigned types of more than 8 bits that everything supports.
    array = array.astype(np.int64) if array.dtype.kind == "u" and array.dtype.itemsize > 1 else array
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _stack(images: list | tuple) -> np.ndarray:
    arrays = [np.asarray(image.cpu()) if isinstance(image, Tensor) else np.asarray(image) for image in images]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) != 1:
        raise UserError(f"Clip.images is a list of images of shapes {shapes}, wanted at least one, all of one size")
    stacked = np.stack(arrays)
    if stacked.ndim == 4 and isinstance(images[0], Tensor) and stacked.shape[1] == 3:
        return stacked.transpose(0, 2, 3, 1)  # images of tensors have color first
    return stacked
