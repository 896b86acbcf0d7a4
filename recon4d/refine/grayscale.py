"""Grayscale images of a clip, at the resolution at which corners are tracked and stereo is computed."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.records import Clip


def grayscale_images(clip: Clip, size: tuple[int, int]) -> Float[Tensor, "time height width"]:
    """Convert the frames of a clip to grayscale and resize them with antialiasing.

    Args:
        clip: A single clip.
        size: Height and width of the result, in pixels.

    Returns:
        Gray values in [0, 1], on the CPU.
    """
    from kornia.color import rgb_to_grayscale

    gray = rgb_to_grayscale(clip.images.cpu().float() / 255)
    return F.interpolate(gray, size, mode="bilinear", align_corners=False, antialias=True)[:, 0]


def working_size(size: tuple[int, int], side: int, multiple: int = 1) -> tuple[int, int]:
    """Compute the size at which images are processed: a limited area, the same aspect ratio, never enlarged.

    Args:
        size: Height and width of the images, in pixels.
        side: Side of the square that has the largest allowed area, in pixels.
        multiple: Number that divides both sides of the result.

    Returns:
        Height and width, each at least 16 pixels (rounded down to a multiple).
    """
    height, width = size
    scale = min(1.0, side / (height * width) ** 0.5)
    rows, columns = (max(16 // multiple, int(scale * length) // multiple) * multiple for length in (height, width))
    return rows, columns
