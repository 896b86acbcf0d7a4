"""Losses of depth maps: the logarithm of depth, and its differences between neighboring pixels.

Lengths are in units of the scene (see `normalized`).
"""

from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.errors import confidence_weighted_error
from recon4d.losses.term import (
    Term,
    fill_unknown,
    masked_term,
    merge_terms,
)

MIN_TRUE_DEPTH = 0.02
"""Lower bound of true depth, in units of the scene: closer pixels are few and have extreme logarithms. Hand-tuned."""
MIN_PREDICTED_DEPTH = 1e-9
"""Lower bound of predicted depth, in units of the scene; half precision may round depth to 0. Hand-tuned."""
STRIDES = (1, 2, 4)
"""Distances in pixels between the neighbors that `depth_gradient_term` compares."""
MAX_DIFFERENCE = 1.0
"""Upper bound of the error of a log-depth difference, above which it has no gradient. Hand-tuned."""

Maps = Float[Tensor, "*batch height width"]


def log_depth_term(
    depths: Maps, confidence: Maps, true_depths: Maps, valid: Bool[Tensor, "*batch height width"]
) -> Term:
    """Compute |log d - log d*|, weighted by predicted confidence (`confidence_weighted_error`).

    Args:
        depths: Predicted depth.
        confidence: Predicted confidence, above 0.
        true_depths: True depth.
        valid: Mask of the pixels to compare.

    Returns:
        The term over the valid pixels.
    """
    errors = _log_ratio(depths, true_depths, valid).abs()
    return masked_term(confidence_weighted_error(errors, fill_unknown(confidence, valid, 1.0)), valid)


def depth_gradient_term(depths: Maps, true_depths: Maps, valid: Bool[Tensor, "*batch height width"]) -> Term:
    """Compare differences of log depth between neighboring pixels, at strides of 1, 2 and 4 pixels along both axes.

    Each difference weighs as many pixels as the square of its stride, so all scales contribute equally.

    Args:
        depths: Predicted depth.
        true_depths: True depth.
        valid: Mask of the pixels to compare; both neighbors of a difference must be valid.

    Returns:
        One term whose mean is the sum over the strides and axes. It does not depend on the scale of depth.
    """
    ratio = _log_ratio(depths, true_depths, valid)
    parts = []
    for stride in STRIDES:
        coarse, is_known = ratio[..., ::stride, ::stride], valid[..., ::stride, ::stride]
        for axis in (-1, -2):
            difference = coarse.diff(dim=axis).abs().clamp(max=MAX_DIFFERENCE)
            size = difference.shape[axis]
            both = is_known.narrow(axis, 0, size) & is_known.narrow(axis, is_known.shape[axis] - size, size)
            # The mean over all parts times their number is the sum over the parts.
            parts.append(masked_term(2 * len(STRIDES) * difference, stride**2 * both.to(difference.dtype)))
    return merge_terms(*parts)


def _log_ratio(depths: Maps, true_depths: Maps, valid: Bool[Tensor, "*batch height width"]) -> Maps:
    """Compute log d - log d*, 0 at invalid pixels."""
    estimated = fill_unknown(depths, valid, 1.0).clamp(min=MIN_PREDICTED_DEPTH)
    target = fill_unknown(true_depths, valid, 1.0).clamp(min=MIN_TRUE_DEPTH)
    return estimated.log() - target.log()
