"""Grayscale images of a clip, at the resolution at which corners are tracked and stereo is computed."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.records import Clip

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the gray value (ITU-R BT.601)."""
STRIP_PIXELS = 2**16
"""Number of pixels that are converted at once, so that they stay in the cache: ten times faster for 12 megapixels.
Hand-tuned."""


def grayscale_images(clip: Clip, size: tuple[int, int]) -> Float[Tensor, "time height width"]:
    """Convert the frames of a clip to grayscale and resize them with antialiasing.

    Args:
        clip: A single clip.
        size: Height and width of the result, in pixels.

    Returns:
        Gray values in [0, 1], on the CPU.
    """
    # One frame at a time in one buffer: the gray values of large photos need more memory than all results.
    gray = torch.empty(clip.size)
    resized = []
    for image in clip.images:
        _write_gray(image.cpu(), gray)
        small = F.interpolate(gray[None, None], size, mode="bilinear", align_corners=False, antialias=True)
        resized.append(small[0, 0])
    return torch.stack(resized)


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


def _write_gray(image: UInt8[Tensor, "3 height width"], gray: Float[Tensor, "height width"]) -> None:
    """Write the gray values of an image."""
    num_rows = max(1, STRIP_PIXELS // image.shape[2])
    for strip, result in zip(image.split(num_rows, dim=1), gray.split(num_rows), strict=True):
        red, green, blue = strip.float()
        torch.mul(red, LUMA[0] / 255, out=result)
        result.add_(green, alpha=LUMA[1] / 255).add_(blue, alpha=LUMA[2] / 255)
