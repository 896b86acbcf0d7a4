"""Gray pictures of a clip in the size that they are searched in."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.records import Clip


def gray_pictures(clip: Clip, size: tuple[int, int]) -> Float[Tensor, "time height width"]:
    """The frames in [0, 1] at `size` (height, width), smoothed before they are made smaller."""
    from kornia.color import rgb_to_grayscale

    gray = rgb_to_grayscale(clip.images.cpu().float() / 255)
    return F.interpolate(gray, size, mode="bilinear", align_corners=False, antialias=True)[:, 0]


def searched_size(size: tuple[int, int], side: int, multiple: int = 1) -> tuple[int, int]:
    """`size` (height, width) at about the area of a square of `side`, never enlarged, in multiples of a number."""
    height, width = size
    scale = min(1.0, side / (height * width) ** 0.5)
    rows, columns = (max(16 // multiple, int(scale * length) // multiple) * multiple for length in (height, width))
    return rows, columns
