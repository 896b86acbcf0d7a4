"""Curves from confidence to expected error: isotonic regression, and two simpler curves for comparison."""

from dataclasses import replace

import numpy as np
import torch

from recon4d.eval.calibration.reliability import MIN_ERROR, bin_samples
from recon4d.eval.calibration.samples import ConfidenceSamples, SceneSamples
from recon4d.losses.errors import CONFIDENCE_REWARD, MAX_CONFIDENCE
from recon4d.records import Calibration, ErrorCurve

NUM_RATIOS = 50
"""Number of quantiles that describe the distribution of errors around the expected one. Hand-tuned."""


def fit_calibration(samples: SceneSamples, measured_on: str) -> Calibration:
    """Fit the curve of every field that has samples.

    Args:
        samples: Confidences and errors of each field.
        measured_on: Description of the clips, which is stored in the calibration.

    Returns:
        The calibration; fields without samples are None.
    """
    fields = {"depth": samples.depth, "points": samples.points, "tracks": samples.tracks}
    return Calibration(
        measured_on, **{name: fit_curve(values) if len(values) else None for name, values in fields.items()}
    )


def fit_curve(samples: ConfidenceSamples) -> ErrorCurve:
    """Fit a curve that never rises with confidence to the median errors of bins of equal count.

    Isotonic regression of the logarithm of the error (Ayer et al. 1955).

    Args:
        samples: At least one sample.

    Returns:
        The curve, with quantiles of the errors around it.

    Raises:
        ValueError: If there are no samples.
    """
    from scipy.optimize import isotonic_regression

    bins = bin_samples(samples)
    falling = isotonic_regression(bins.errors.log().numpy(), weights=bins.counts.double().numpy(), increasing=False)
    return _with_ratios(tuple(bins.confidence.tolist()), np.exp(falling.x).tolist(), samples)


def fit_power_law(samples: ConfidenceSamples) -> ErrorCurve:
    """Fit error = scale * confidence^-power to the median errors of bins by least squares of the logarithms.

    The loss implies this form with a power of 1. A negative power becomes 0.

    Args:
        samples: At least one sample.

    Returns:
        The curve, with quantiles of the errors around it.

    Raises:
        ValueError: If there are no samples.
    """
    bins = bin_samples(samples)
    x, y, weights = bins.confidence.log(), bins.errors.log(), bins.counts.double() / bins.counts.sum()
    centered = x - weights @ x
    variance = weights @ centered.square()
    slope = torch.where(variance > 0, (weights @ (centered * y)) / variance.clamp(min=1e-30), 0.0).clamp(max=0)
    ends = centered[[0, -1]] if len(centered) > 1 else centered
    errors = (weights @ y + slope * ends).exp()
    confidences = bins.confidence[[0, -1]] if len(centered) > 1 else bins.confidence
    return _with_ratios(tuple(confidences.tolist()), errors.tolist(), samples)


def loss_implied_curve() -> ErrorCurve:
    """Create the curve that the training loss implies.

    For a given confidence, the loss in `recon4d.losses.errors` is minimal at an error of alpha / confidence.

    Returns:
        The curve of that error.
    """
    return ErrorCurve((1.0, MAX_CONFIDENCE), (CONFIDENCE_REWARD, CONFIDENCE_REWARD / MAX_CONFIDENCE))


def _with_ratios(confidences: tuple[float, ...], errors: list[float], samples: ConfidenceSamples) -> ErrorCurve:
    """Return the curve through the given knots, with quantiles of the errors of the samples around it."""
    curve = ErrorCurve(confidences, _rounded(errors))
    ratios = (samples.errors.double() / curve.expected_error(samples.confidence.double())).sort().values
    middles = ((torch.arange(NUM_RATIOS) + 0.5) / NUM_RATIOS * len(ratios)).long()
    return replace(curve, ratios=_rounded(ratios[middles].clamp(min=MIN_ERROR).tolist()))


def _rounded(values: list[float]) -> tuple[float, ...]:
    """Round to six significant digits, because every archive of a scene contains the values."""
    return tuple(float(f"{value:.6g}") for value in values)
