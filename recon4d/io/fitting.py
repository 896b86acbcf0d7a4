"""Bringing pictures of different sizes, such as portrait beside landscape, to a common frame."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from recon4d.records import Clip


@dataclass(frozen=True)
class FittedImages:
    """Images of a common size."""

    images: UInt8[Tensor, "time 3 height width"]
    """Each picture, scaled and in the middle of its frame, with black padding."""
    padding: Bool[Tensor, "time height width"]
    """Pixels that no picture covers."""


def fit_images(images: Sequence[UInt8[Tensor, "3 _height _width"]]) -> FittedImages:
    """Scale pictures to the same longer side, and pad them to the smallest frame that holds all of them.

    A camera that is turned to portrait keeps its focal length in pixels, since its longer side is the same. The longer
    side is the most frequent one, of equally frequent ones the largest.

    Args:
        images: RGB pictures of shape (3, height, width) of any sizes.

    Returns:
        The pictures in a common frame. The principal point of each stays in the middle of the frame.
    """
    counts = Counter(max(image.shape[1:]) for image in images)
    longer = max(counts, key=lambda side: (counts[side], side))
    sizes = [_scaled(image, longer) for image in images]
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    fitted = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for number, (image, (own_height, own_width)) in enumerate(zip(images, sizes, strict=True)):
        top, left = (height - own_height) // 2, (width - own_width) // 2
        rows, columns = slice(top, top + own_height), slice(left, left + own_width)
        fitted[number, :, rows, columns] = Clip(image[None], torch.zeros(1)).resized(own_height, own_width).images[0]
        padding[number, rows, columns] = False
    return FittedImages(fitted, padding)


def _scaled(image: Tensor, longer: int) -> tuple[int, int]:
    """Height and width of a picture scaled to a longer side."""
    height, width = image.shape[1:]
    scale = longer / max(height, width)
    return max(1, round(scale * height)), max(1, round(scale * width))
