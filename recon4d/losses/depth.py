"""Errors of depth maps: of the logarithm of depth, and of its differences between neighboring pixels.

Lengths are in units of the scene (`normalised`).
"""

from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.errors import confidence_weighted_error
from recon4d.losses.term import (
    Term,
    masked_term,
    replaced_where_unknown,
    together,
)

NEAREST = 0.02
"""True depths count as at least this: nearer pixels are few, and their logarithms large."""
SMALLEST = 1e-9
"""Predicted depths count as at least this, so that what a half type rounded to zero has a logarithm."""
STRIDES = (1, 2, 4)
"""Pixels between neighbors whose differences are compared."""
MAX_DIFFERENCE = 1.0
"""An edge out of place costs at most this and has then no gradient."""

Maps = Float[Tensor, "*batch height width"]


def log_depth_term(
    depths: Maps, confidence: Maps, true_depths: Maps, valid: Bool[Tensor, "*batch height width"]
) -> Term:
    """|log d - log z| where `valid`, weighed by the prediction's own confidence (`weighed_by_confidence`)."""
    errors = _log_ratio(depths, true_depths, valid).abs()
    return masked_term(confidence_weighted_error(errors, replaced_where_unknown(confidence, valid, 1.0)), valid)


def depth_gradient_term(depths: Maps, true_depths: Maps, valid: Bool[Tensor, "*batch height width"]) -> Term:
    """How much the log depth's differences from pixel to pixel are off: the sum over three scales and both axes.

    Scales are every, every second and every fourth pixel; two neighbors count where both are valid. A difference
    weighs as the area of pixels it stands for, so every scale counts alike in the term's one mean.
    """
    ratio = _log_ratio(depths, true_depths, valid)
    parts = []
    for stride in STRIDES:
        coarse, is_known = ratio[..., ::stride, ::stride], valid[..., ::stride, ::stride]
        for axis in (-1, -2):
            difference = coarse.diff(dim=axis).abs().clamp(max=MAX_DIFFERENCE)
            size = difference.shape[axis]
            both = is_known.narrow(axis, 0, size) & is_known.narrow(axis, is_known.shape[axis] - size, size)
            # A mean over the parts, times their number, is their sum.
            parts.append(masked_term(2 * len(STRIDES) * difference, stride**2 * both.to(difference.dtype)))
    return together(*parts)


def _log_ratio(depths: Maps, true_depths: Maps, valid: Bool[Tensor, "*batch height width"]) -> Maps:
    """log d - log z, 0 where not valid."""
    given = replaced_where_unknown(depths, valid, 1.0).clamp(min=SMALLEST)
    wanted = replaced_where_unknown(true_depths, valid, 1.0).clamp(min=NEAREST)
    return given.log() - wanted.log()
