"""Images with the same mean and contrast in the window about each pixel, which are compared independently of light."""

import torch
from jaxtyping import Float
from torch import Tensor

MIN_VARIANCE = 1e-4
"""Added to the variance of a window, in squared gray values of [0, 1]: noise of smooth areas is not texture.
Hand-tuned."""


def normalize_contrast(images: Float[Tensor, "time height width"], window: int) -> Float[Tensor, "time height width"]:
    """Subtract the mean of the window about each pixel, and divide by its standard deviation.

    Args:
        images: Gray images in [0, 1].
        window: Side of the square window in pixels, odd.

    Returns:
        The normalized images. Their mean squared difference in a window is 2 - 2 * correlation.
    """
    mean = window_mean(images, window)
    variance = (window_mean(images.square(), window) - mean.square()).clamp(min=0)
    return (images - mean) / (variance + MIN_VARIANCE).sqrt()


def window_mean(values: Float[Tensor, "*n height width"], window: int) -> Float[Tensor, "*n height width"]:
    """Average over the square window about each pixel, as far as it lies inside the image.

    A sum of shifted images is several times faster than `avg_pool2d` on CPUs.

    Args:
        values: Any maps.
        window: Side of the square window in pixels, odd.

    Returns:
        The averages.
    """
    for dim in (-2, -1):
        length, half = values.shape[dim], window // 2
        total = values.clone()
        for shift in range(1, half + 1):
            rest = length - shift
            total.narrow(dim, 0, rest).add_(values.narrow(dim, shift, rest))
            total.narrow(dim, shift, rest).add_(values.narrow(dim, 0, rest))
        places = torch.arange(length, device=values.device)
        count = (places + half).clamp(max=length - 1) - (places - half).clamp(min=0) + 1
        values = total.div_(count if dim == -1 else count[:, None])
    return values
