"""Expected beside measured error: pixels in bins of like confidence, and how far apart the two are in the mean."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.eval.calibration.samples import ConfidenceSamples
from recon4d.records import ErrorCurve

BINS = 16
LEAST_ERROR = 1e-6
"""Errors count as at least this, so that what is exact has a logarithm."""


@dataclass(frozen=True, eq=False)
class Bins:
    """Pixels by confidence in parts of about equal count; pixels of one confidence are never parted."""

    confidence: Float[Tensor, "bin"]
    """The median of each bin, rising."""
    errors: Float[Tensor, "bin"]
    """The median relative error of each bin."""
    counts: Int[Tensor, "bin"]


@dataclass(frozen=True, eq=False)
class Reliability:
    """The error that a curve expects in each bin, beside the median that was measured there."""

    expected: Float[Tensor, "bin"]
    measured: Float[Tensor, "bin"]
    counts: Int[Tensor, "bin"]


def binned(evidence: ConfidenceSamples, count: int = BINS) -> Bins:
    """The evidence in `count` bins, or fewer where confidences are alike. Raises ``ValueError`` without evidence."""
    if not len(evidence):
        raise ValueError("no pixel is known to both prediction and truth; wanted some to measure confidence by")
    confidence, order = evidence.confidence.double().sort(stable=True)
    errors = evidence.errors.double()[order].clamp(min=LEAST_ERROR)
    upper = confidence[torch.arange(1, count + 1) * len(confidence) // count - 1] if len(confidence) >= count else None
    upper = confidence.unique() if upper is None else upper.unique()
    ends = torch.searchsorted(confidence, upper, right=True)
    sizes = ends.diff(prepend=ends.new_zeros(1))
    parts = list(zip(confidence.split(sizes.tolist()), errors.split(sizes.tolist()), strict=True))
    medians = torch.stack([torch.stack([part.quantile(0.5) for part in pair]) for pair in parts])
    return Bins(medians[:, 0], medians[:, 1], sizes)


def reliability(curve: ErrorCurve, evidence: ConfidenceSamples, count: int = BINS) -> Reliability:
    """What `curve` expects of the evidence, beside what it holds. Raises ``ValueError`` without evidence."""
    bins = binned(evidence, count)
    # The curve never rises, so that what it expects of the median is the median of what it expects.
    return Reliability(curve.expected_error(bins.confidence), bins.errors, bins.counts)


def calibration_error(found: Reliability) -> float:
    """The mean over pixels of |ln(expected / measured)| of their bins: 0 is calibrated, 0.69 off by a factor of 2."""
    weights = found.counts.double() / found.counts.sum()
    return float((weights * (found.expected / found.measured).log().abs()).sum())
