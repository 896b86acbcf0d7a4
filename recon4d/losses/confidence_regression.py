"""Regression that trusts itself: residuals weighted by predicted confidence, outliers left out, and image gradients.

The pieces are element by element and meet in `confidence_terms`: residuals, what confidence makes of them
(DUSt3R, Wang et al. 2024, eq. 4), and a filter that keeps the worst fiftieth from steering (VGGT, Wang et al. 2025).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.term import Term, masked_term

CONFIDENCE_SHARE = 1.0
"""Gamma: how much the residual under its confidence counts."""

CERTAINTY_REWARD = 0.2
"""Alpha: what a factor of e in confidence is worth; a residual of alpha is best trusted with confidence 1."""

MAX_ELEMENT = 100.0
"""No single element of a loss counts for more."""

KEPT_QUANTILE = 0.98
MIN_KEPT = 1000
"""The filter acts only where it leaves more elements than this: the quantile of a handful means nothing."""

GRADIENT_SCALES = 4


class ConfidenceTerms(NamedTuple):
    """The two terms that are added: the residual under confidence, and the plain residual."""

    weighted: Term
    plain: Term


def confidence_terms(
    predicted: Float[Tensor, "*batch channels"],
    true: Float[Tensor, "*batch channels"],
    confidence: Float[Tensor, "*batch"],
    valid: Bool[Tensor, "*batch"],
) -> ConfidenceTerms:
    """Gamma c ||x - x*|| - alpha log c, and ||x - x*||, each over its own elements below the 0.98 quantile.

    Values are in any one unit (depths have one channel); `confidence` is above 0, from 1 upwards in this package.
    The first term falls below zero where confidence is high and right. What stands at invalid elements is ignored.
    """
    residuals = residual_norms(predicted, true, valid)
    weighted = confidence_weighted(residuals, torch.where(valid, confidence, torch.ones_like(confidence)))
    return ConfidenceTerms(weighted=filtered_term(weighted, valid), plain=filtered_term(residuals, valid))


def residual_norms(
    predicted: Float[Tensor, "*batch channels"], true: Float[Tensor, "*batch channels"], valid: Bool[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Euclidean distances, 0 where invalid; the gradient is 0 where there is no distance."""
    difference = torch.where(valid[..., None], predicted - true, torch.zeros_like(predicted))
    return torch.linalg.vector_norm(difference, dim=-1)


def confidence_weighted(
    residuals: Float[Tensor, "*batch"], confidence: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Gamma c r - alpha log c for each residual r: least at c = alpha / (gamma r), so doubt must be paid for."""
    return CONFIDENCE_SHARE * confidence * residuals - CERTAINTY_REWARD * confidence.log()


def filtered_term(values: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"]) -> Term:
    """The term of `values` clamped to at most 100, over those that `below_quantile` keeps."""
    clamped = values.clamp(max=MAX_ELEMENT)
    return masked_term(clamped, below_quantile(clamped, valid))


def below_quantile(values: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Valid values strictly below their 0.98 quantile; all valid ones where that would leave 1000 or fewer.

    The quantile is interpolated between neighbors in order. The choice carries no gradient and no host waits for it.
    """
    with torch.no_grad():
        ordered = torch.where(valid, values, torch.inf).flatten().sort().values
        # Float64: float32 cannot count the elements of a large batch.
        rank = KEPT_QUANTILE * (valid.sum() - 1).clamp(min=0).double()
        # Not ordered[rank]: an index of no dimensions is read by the host.
        lower, upper = ordered.gather(0, torch.stack([rank.floor(), rank.ceil()]).long()).unbind()
        threshold = torch.where(lower == upper, lower, lower + rank.frac().to(lower.dtype) * (upper - lower))
        kept = valid & (values < threshold)
        return torch.where(kept.sum() > MIN_KEPT, kept, valid)


def gradient_terms(
    predicted: Float[Tensor, "*batch height width channels"],
    true: Float[Tensor, "*batch height width channels"],
    valid: Bool[Tensor, "*batch height width"],
    confidence: Float[Tensor, "*batch height width"] | None = None,
) -> tuple[Term, ...]:
    """|d/dx (x - x*)| + |d/dy (x - x*)| at each of 4 scales, every 1st, 2nd, 4th and 8th pixel (VGGT's `grad`).

    Differences between neighbors that are both valid, at most 100, averaged over channels; with `confidence` each is
    weighted by that of its right or lower pixel. A term counts valid pixels, not pairs. Steps that leave no neighbors
    give a term of nothing.
    """
    error = torch.where(valid[..., None], predicted - true, torch.zeros_like(predicted))
    trust = None if confidence is None else torch.where(valid, confidence, torch.ones_like(confidence))
    terms = []
    for step in (2**scale for scale in range(GRADIENT_SCALES)):
        coarse = slice(None, None, step)
        few_trust = None if trust is None else trust[..., coarse, coarse]
        few_valid = valid[..., coarse, coarse]
        down, right = _slopes(error[..., coarse, coarse, :], few_valid, few_trust)
        terms.append(Term(down + right, few_valid.sum().to(error.dtype)))
    return tuple(terms)


def _slopes(error: Tensor, valid: Tensor, confidence: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sums of absolute differences between rows and between columns."""
    sums = []
    for axis in (-2, -1):  # of `valid`; `error` has one more
        size = valid.shape[axis] - 1
        both = valid.narrow(axis, 0, size) & valid.narrow(axis, 1, size)
        slope = (error.narrow(axis - 1, 1, size) - error.narrow(axis - 1, 0, size)).abs()
        values = slope.clamp(max=MAX_ELEMENT).mean(dim=-1)
        if confidence is not None:
            values = confidence_weighted(values, confidence.narrow(axis, 1, size))
        sums.append(masked_term(values, both).total)
    return sums[0], sums[1]
