"""Reliability: expected and measured error in bins of confidence, and their mean distance."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.eval.calibration.samples import ConfidenceSamples
from recon4d.records import ErrorCurve

NUM_BINS = 16
"""Number of bins of confidence. Hand-tuned."""
MIN_ERROR = 1e-6
"""Smallest relative error; smaller errors are raised to it, so that their logarithm is finite."""


@dataclass(frozen=True, eq=False)
class Bins:
    """Pixels in bins of about equal count by confidence; pixels of equal confidence share a bin."""

    confidence: Float[Tensor, "bin"]
    """Median confidence of each bin, ascending."""
    errors: Float[Tensor, "bin"]
    """Median relative error of each bin."""
    counts: Int[Tensor, "bin"]
    """Number of pixels of each bin."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Expected and measured error of each bin of confidence."""

    expected: Float[Tensor, "bin"]
    """Expected relative error of each bin, according to a curve."""
    measured: Float[Tensor, "bin"]
    """Measured median relative error of each bin."""
    counts: Int[Tensor, "bin"]
    """Number of pixels of each bin."""


def bin_samples(samples: ConfidenceSamples, count: int = NUM_BINS) -> Bins:
    """Divide samples into bins of confidence.

    Args:
        samples: At least one sample.
        count: Number of bins; fewer if many confidences are equal.

    Returns:
        The bins, in ascending order of confidence.

    Raises:
        ValueError: If there are no samples.
    """
    if not len(samples):
        raise ValueError("there are no samples; wanted pixels that are known in both prediction and truth")
    confidence, order = samples.confidence.double().sort(stable=True)
    errors = samples.errors.double()[order].clamp(min=MIN_ERROR)
    upper = confidence[torch.arange(1, count + 1) * len(confidence) // count - 1] if len(confidence) >= count else None
    upper = confidence.unique() if upper is None else upper.unique()
    ends = torch.searchsorted(confidence, upper, right=True)
    sizes = ends.diff(prepend=ends.new_zeros(1))
    parts = list(zip(confidence.split(sizes.tolist()), errors.split(sizes.tolist()), strict=True))
    medians = torch.stack([torch.stack([part.quantile(0.5) for part in pair]) for pair in parts])
    return Bins(medians[:, 0], medians[:, 1], sizes)


def compute_reliability(curve: ErrorCurve, samples: ConfidenceSamples, count: int = NUM_BINS) -> Reliability:
    """Compare the error that a curve expects with the measured error, in bins of confidence.

    Args:
        curve: Curve from confidence to expected error.
        samples: At least one sample.
        count: Number of bins; fewer if many confidences are equal.

    Returns:
        Expected and measured error of each bin.

    Raises:
        ValueError: If there are no samples.
    """
    bins = bin_samples(samples, count)
    # The curve is monotone: its value at the median confidence is the median of its values.
    return Reliability(curve.expected_error(bins.confidence), bins.errors, bins.counts)


def calibration_error(reliability: Reliability) -> float:
    """Compute the mean distance of expected and measured error.

    Args:
        reliability: Expected and measured error of each bin.

    Returns:
        Mean over pixels of |ln(expected / measured)| of their bins: 0 for a perfect calibration, 0.69 for a factor
        of 2.
    """
    weights = reliability.counts.double() / reliability.counts.sum()
    return float((weights * (reliability.expected / reliability.measured).log().abs()).sum())
