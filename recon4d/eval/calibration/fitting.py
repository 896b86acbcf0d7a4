"""A curve through the evidence: medians of bins made monotone, and two simpler curves to hold it against."""

from dataclasses import replace

import numpy as np
import torch

from recon4d.eval.calibration.reliability import LEAST_ERROR, binned
from recon4d.eval.calibration.samples import ConfidenceSamples, SceneSamples
from recon4d.losses.errors import CONFIDENCE_REWARD, MAX_CONFIDENCE
from recon4d.records import Calibration, ErrorCurve

RATIOS = 50
"""Quantiles that tell how errors lie around the expected one."""


def fit_calibration(evidence: SceneSamples, measured_on: str) -> Calibration:
    """The curve of every field that there is evidence of; `measured_on` says in words which clips it is from."""
    fields = {"depth": evidence.depth, "points": evidence.points, "tracks": evidence.tracks}
    return Calibration(measured_on, **{name: fit_curve(one) if len(one) else None for name, one in fields.items()})


def fit_curve(evidence: ConfidenceSamples) -> ErrorCurve:
    """The median error of bins of equal count, the nearest to it (in log error) that never rises with confidence.

    The least sum of squares under that condition (isotonic regression, Ayer et al. 1955). Raises ``ValueError``
    without evidence.
    """
    from scipy.optimize import isotonic_regression

    bins = binned(evidence)
    falling = isotonic_regression(bins.errors.log().numpy(), weights=bins.counts.double().numpy(), increasing=False)
    return _with_ratios(tuple(bins.confidence.tolist()), np.exp(falling.x).tolist(), evidence)


def fit_power_law(evidence: ConfidenceSamples) -> ErrorCurve:
    """error = scale * confidence^-power: the straight line of least squares through the same medians of bins.

    The form that follows from the loss, whose power is 1. A power below 0 becomes 0. Raises ``ValueError`` without
    evidence.
    """
    bins = binned(evidence)
    x, y, weights = bins.confidence.log(), bins.errors.log(), bins.counts.double() / bins.counts.sum()
    centered = x - weights @ x
    spread = weights @ centered.square()
    slope = torch.where(spread > 0, (weights @ (centered * y)) / spread.clamp(min=1e-30), 0.0).clamp(max=0)
    ends = centered[[0, -1]] if len(centered) > 1 else centered
    errors = (weights @ y + slope * ends).exp()
    confidences = bins.confidence[[0, -1]] if len(centered) > 1 else bins.confidence
    return _with_ratios(tuple(confidences.tolist()), errors.tolist(), evidence)


def loss_curve() -> ErrorCurve:
    """What the loss itself aims at: its least value is at an error of alpha / confidence (`losses.errors`)."""
    return ErrorCurve((1.0, MAX_CONFIDENCE), (CONFIDENCE_REWARD, CONFIDENCE_REWARD / MAX_CONFIDENCE))


def _with_ratios(confidences: tuple[float, ...], errors: list[float], evidence: ConfidenceSamples) -> ErrorCurve:
    """The curve through these knots, with how the errors of the evidence lie around it."""
    curve = ErrorCurve(confidences, _rounded(errors))
    ratios = (evidence.errors.double() / curve.expected_error(evidence.confidence.double())).sort().values
    middles = ((torch.arange(RATIOS) + 0.5) / RATIOS * len(ratios)).long()
    return replace(curve, ratios=_rounded(ratios[middles].clamp(min=LEAST_ERROR).tolist()))


def _rounded(values: list[float]) -> tuple[float, ...]:
    """To six digits: every archive of a scene carries them."""
    return tuple(float(f"{value:.6g}") for value in values)
