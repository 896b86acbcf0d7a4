"""Maps of values that are known at some pixels only, moved to another size without mixing in the unknown ones."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def resize_map(
    values: Float[Tensor, "*batch channels height width"],
    valid: Bool[Tensor, "*batch height width"],
    size: tuple[int, int],
) -> tuple[Float[Tensor, "*batch channels new_height new_width"], Bool[Tensor, "*batch new_height new_width"]]:
    """Bilinear values (antialiased when shrinking) at `size` (height, width), and where they are valid.

    Only valid pixels are averaged, so nothing bleeds across a border to the unknown; a new pixel is valid where the
    old pixel at its center is. Invalid pixels become 0.
    """
    *batch, channels, height, width = values.shape
    if (height, width) == tuple(size):
        return values, valid
    mask = valid.reshape(-1, 1, height, width).to(values.dtype)
    flat = values.reshape(-1, channels, height, width)
    # where(), not a product: what is unknown may be NaN or infinite.
    known = torch.where(mask > 0, flat, torch.zeros_like(flat))
    weight = _bilinear(mask, size)
    average = _bilinear(known, size) / weight.clamp(min=1e-6)
    new_valid = F.interpolate(mask, size, mode="nearest-exact") > 0.5
    average = torch.where(new_valid, average, torch.zeros_like(average))
    return average.reshape(*batch, channels, *size), new_valid.reshape(*batch, *size)


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)
