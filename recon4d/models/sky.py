"""Sky of Depth Anything 3's monocular models: which pixels are ground, and the depth of the others."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

GROUND_BELOW = 0.3
"""Evidence for sky below which a pixel is ground, whose depth is predicted (as published)."""
MIN_PIXELS = 10
"""Sky is filled if there are more pixels of ground and of sky than this (as published)."""
QUANTILE = 0.99
"""Quantile of the depth of the ground that the sky gets (as published)."""


def is_ground(sky: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Mark pixels that are not sky.

    Args:
        sky: Evidence for sky (`Outputs.sky`).

    Returns:
        True for pixels with a predicted depth.
    """
    return sky < GROUND_BELOW


def fill_sky(
    depths: Float[Tensor, "batch time height width"], sky: Float[Tensor, "batch time height width"]
) -> Float[Tensor, "batch time height width"]:
    """Set the depth of the sky to the 99 % quantile of the depth of the ground of all frames.

    The published code draws pixels at random from large clips; here the quantile is that of all pixels.

    Args:
        depths: Predicted depths.
        sky: Evidence for sky.

    Returns:
        The depths; those of clips with hardly any sky or ground as they are.
    """
    ground = is_ground(sky)
    filled = torch.where(ground, depths, ground_quantile(depths, ground, QUANTILE)[:, None, None, None])
    return torch.where(_has_both(ground)[:, None, None, None], filled, depths)


def ground_quantile(
    values: Float[Tensor, "batch *shape"], ground: Bool[Tensor, "batch *shape"], quantile: float
) -> Float[Tensor, "batch"]:
    """Compute a quantile of the values of the ground of each clip, with linear interpolation.

    Args:
        values: Values of all pixels.
        ground: Pixels that count.
        quantile: Quantile from 0 to 1.

    Returns:
        The quantiles; infinity for clips without ground.
    """
    # Sorting all pixels needs no synchronization, unlike the selection of those that count.
    ordered = torch.where(ground, values, torch.inf).flatten(1).sort(dim=1).values
    rank = quantile * (ground.flatten(1).sum(dim=1, keepdim=True) - 1).clamp(min=0).double()
    low, high = (ordered.gather(1, place.long()) for place in (rank.floor(), rank.ceil()))
    share = (rank - rank.floor()).to(values.dtype)
    return torch.where(share > 0, low + share * (high - low), low)[:, 0]


def _has_both(ground: Bool[Tensor, "batch *shape"]) -> Bool[Tensor, "batch"]:
    flat = ground.flatten(1)
    return (flat.sum(dim=1) > MIN_PIXELS) & ((~flat).sum(dim=1) > MIN_PIXELS)
