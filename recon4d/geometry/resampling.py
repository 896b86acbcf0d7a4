"""Resizing of maps with unknown pixels, which must not contaminate known ones."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def resize_map(
    values: Float[Tensor, "*batch channels height width"],
    valid: Bool[Tensor, "*batch height width"],
    size: tuple[int, int],
) -> tuple[Float[Tensor, "*batch channels new_height new_width"], Bool[Tensor, "*batch new_height new_width"]]:
    """Resize maps by bilinear interpolation between valid pixels only, antialiased when downsampling.

    Args:
        values: Maps of any unit. Values of invalid pixels are ignored and may be NaN or infinite.
        valid: Pixels with a known value.
        size: New height and width.

    Returns:
        The resized maps, 0 at invalid pixels, and their validity. A new pixel is valid if the old pixel at its center
        is valid.
    """
    *batch, channels, height, width = values.shape
    if (height, width) == tuple(size):
        return values, valid
    mask = valid.reshape(-1, 1, height, width).to(values.dtype)
    flat = values.reshape(-1, channels, height, width)
    # where() instead of a product: invalid values may be NaN or infinite.
    valid_values = torch.where(mask > 0, flat, torch.zeros_like(flat))
    weight = _resize_bilinear(mask, size)
    average = _resize_bilinear(valid_values, size) / weight.clamp(min=1e-6)
    new_valid = F.interpolate(mask, size, mode="nearest-exact") > 0.5
    average = torch.where(new_valid, average, torch.zeros_like(average))
    return average.reshape(*batch, channels, *size), new_valid.reshape(*batch, *size)


def _resize_bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)
