"""Regression with confidence-weighted residuals, outlier rejection and image gradients, as in VGGT.

`confidence_terms` combines the elementwise parts: residuals, their confidence weighting (DUSt3R, Wang et al. 2024,
eq. 4) and a filter that ignores the largest 2% of the values (VGGT, Wang et al. 2025).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.term import Term, masked_term

CONFIDENCE_WEIGHT = 1.0
"""Gamma, the weight of confidence times residual. From VGGT."""

LOG_CONFIDENCE_WEIGHT = 0.2
"""Alpha, the weight of the log confidence. The optimal confidence is alpha / (gamma residual). From VGGT."""

MAX_ERROR = 100.0
"""Upper bound of the loss of a single element. From VGGT."""

INLIER_QUANTILE = 0.98
"""Fraction of the elements that are kept by the outlier filter. From VGGT."""
MIN_INLIERS = 1000
"""The outlier filter is skipped if it would leave this many elements or fewer. From VGGT."""

GRADIENT_SCALES = 4
"""Number of scales at which image gradients are compared; the stride doubles with each. From VGGT."""


class ConfidenceTerms(NamedTuple):
    """The two terms of confidence regression, which are added."""

    weighted: Term
    """Residuals weighted by confidence, minus the weighted log confidence."""
    plain: Term
    """Residuals without weights."""


def confidence_terms(
    predicted: Float[Tensor, "*batch channels"],
    true: Float[Tensor, "*batch channels"],
    confidence: Float[Tensor, "*batch"],
    valid: Bool[Tensor, "*batch"],
) -> ConfidenceTerms:
    """Compute gamma c r - alpha log c and r for the residuals r = ||x - x*||, each over its own inliers.

    The weighted term is negative where the confidence is high and the residual is small.

    Args:
        predicted: Predicted values in any unit; depth has one channel.
        true: True values in the same unit.
        confidence: Predicted confidence, above 0.
        valid: Mask of the elements to compare; all other elements are ignored and may be NaN.

    Returns:
        The confidence-weighted term and the plain term.
    """
    residuals = residual_norms(predicted, true, valid)
    weighted = confidence_weighted(residuals, torch.where(valid, confidence, torch.ones_like(confidence)))
    return ConfidenceTerms(weighted=filtered_term(weighted, valid), plain=filtered_term(residuals, valid))


def residual_norms(
    predicted: Float[Tensor, "*batch channels"], true: Float[Tensor, "*batch channels"], valid: Bool[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Compute Euclidean distances of predicted and true values.

    Args:
        predicted: Predicted values.
        true: True values in the same unit.
        valid: Mask of the elements to compare.

    Returns:
        Distances, 0 at invalid elements. The gradient is 0 where the distance is 0.
    """
    difference = torch.where(valid[..., None], predicted - true, torch.zeros_like(predicted))
    return torch.linalg.vector_norm(difference, dim=-1)


def confidence_weighted(
    residuals: Float[Tensor, "*batch"], confidence: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Compute gamma c r - alpha log c for each residual r, which is minimal at c = alpha / (gamma r).

    Args:
        residuals: Residuals, not negative.
        confidence: Predicted confidence, above 0.

    Returns:
        Weighted residuals.
    """
    return CONFIDENCE_WEIGHT * confidence * residuals - LOG_CONFIDENCE_WEIGHT * confidence.log()


def filtered_term(values: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"]) -> Term:
    """Average values clamped to `MAX_ERROR` over the inliers that `below_quantile` selects.

    Args:
        values: Loss of each element.
        valid: Mask of the elements to use.

    Returns:
        The term over the inliers.
    """
    clamped = values.clamp(max=MAX_ERROR)
    return masked_term(clamped, below_quantile(clamped, valid))


def below_quantile(values: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Select the valid values that are strictly below their 0.98 quantile.

    The quantile interpolates linearly between order statistics. It is computed without gradient and without a transfer
    from the device to the host.

    Args:
        values: Values of any shape; invalid ones may be NaN.
        valid: Mask of the values to use.

    Returns:
        Mask of the inliers; all valid values if `MIN_INLIERS` or fewer would be left.
    """
    with torch.no_grad():
        ordered = torch.where(valid, values, torch.inf).flatten().sort().values
        # float64, because float32 cannot represent every index of a large batch.
        rank = INLIER_QUANTILE * (valid.sum() - 1).clamp(min=0).double()
        # Not ordered[rank]: indexing by a scalar tensor would wait for the device.
        lower, upper = ordered.gather(0, torch.stack([rank.floor(), rank.ceil()]).long()).unbind()
        threshold = torch.where(lower == upper, lower, lower + rank.frac().to(lower.dtype) * (upper - lower))
        kept = valid & (values < threshold)
        return torch.where(kept.sum() > MIN_INLIERS, kept, valid)


def gradient_terms(
    predicted: Float[Tensor, "*batch height width channels"],
    true: Float[Tensor, "*batch height width channels"],
    valid: Bool[Tensor, "*batch height width"],
    confidence: Float[Tensor, "*batch height width"] | None = None,
) -> tuple[Term, ...]:
    """Compare image gradients at 4 scales: |d/dx (x - x*)| + |d/dy (x - x*)| with strides of 1, 2, 4 and 8 pixels.

    This is the `grad` loss of VGGT. Differences use neighbors that are both valid, are clamped to `MAX_ERROR` and
    averaged over channels.

    Args:
        predicted: Predicted maps.
        true: True maps in the same unit.
        valid: Mask of the pixels to compare.
        confidence: Predicted confidence, above 0, which weights each difference by the value of its right or lower
            pixel. None weights all differences by 1.

    Returns:
        One term per scale. Its count is the number of valid pixels, not of pairs. A stride that leaves no neighbors
        gives a total of 0.
    """
    error = torch.where(valid[..., None], predicted - true, torch.zeros_like(predicted))
    filled_confidence = None if confidence is None else torch.where(valid, confidence, torch.ones_like(confidence))
    terms = []
    for step in (2**scale for scale in range(GRADIENT_SCALES)):
        coarse = slice(None, None, step)
        coarse_confidence = None if filled_confidence is None else filled_confidence[..., coarse, coarse]
        coarse_valid = valid[..., coarse, coarse]
        down, right = _slopes(error[..., coarse, coarse, :], coarse_valid, coarse_confidence)
        terms.append(Term(down + right, coarse_valid.sum().to(error.dtype)))
    return tuple(terms)


def _slopes(error: Tensor, valid: Tensor, confidence: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum the absolute differences between neighboring rows and between neighboring columns."""
    sums = []
    for axis in (-2, -1):  # axes of `valid`; `error` has a trailing channel axis
        size = valid.shape[axis] - 1
        both = valid.narrow(axis, 0, size) & valid.narrow(axis, 1, size)
        slope = (error.narrow(axis - 1, 1, size) - error.narrow(axis - 1, 0, size)).abs()
        values = slope.clamp(max=MAX_ERROR).mean(dim=-1)
        if confidence is not None:
            values = confidence_weighted(values, confidence.narrow(axis, 1, size))
        sums.append(masked_term(values, both).total)
    return sums[0], sums[1]
