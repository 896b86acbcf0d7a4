"""Calibration of confidence: the error to expect at each confidence, fitted on scenes with ground truth."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import stratified_indices

MAX_PIXELS = 2000
"""Number of pixels, stratified by expected error, that represent all pixels of a scene in quantiles. Hand-tuned."""


@dataclass(frozen=True)
class ErrorCurve:
    """Median relative error as a function of confidence, with the distribution of errors around it.

    The curve interpolates log error linearly over log confidence between knots, never rises, and is constant beyond the
    first and the last knot, where nothing was measured. Errors are fractions of depth: 0.05 means 5 %.

    Raises:
        UserError: If the fields do not describe such a curve; calibrations are read from files.
    """

    confidences: tuple[float, ...]
    """Confidences of the knots, positive and strictly increasing."""
    errors: tuple[float, ...]
    """Median relative error at each knot, positive and non-increasing."""
    ratios: tuple[float, ...] = (1.0,)
    """Quantiles of actual over expected error at the centers of equal probability bins, ascending.

    Their distribution is assumed to be the same at every confidence.
    """

    def __post_init__(self) -> None:
        if not self.confidences or len(self.confidences) != len(self.errors) or not self.ratios:
            raise UserError(
                f"an error curve has {len(self.confidences)} confidences, {len(self.errors)} errors and "
                f"{len(self.ratios)} ratios; wanted as many errors as confidences, and at least one of each"
            )
        numbers = (*self.confidences, *self.errors, *self.ratios)
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise UserError(f"an error curve has {self}; wanted finite numbers above 0")
        if np.any(np.diff(self.confidences) <= 0) or np.any(np.diff(self.errors) > 0):
            raise UserError(f"an error curve has {self}; wanted increasing confidences and non-increasing errors")
        if np.any(np.diff(self.ratios) < 0):
            raise UserError(f"an error curve has ratios {self.ratios}; wanted them in ascending order")

    def expected_error(self, confidence: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Look up the expected error of pixels or points.

        Args:
            confidence: Confidences as predicted by the model; 0 or NaN means unknown.

        Returns:
            Median relative error at each confidence; NaN where the confidence is unknown.
        """
        values = confidence.detach().double().cpu().numpy()
        is_known = values > 0
        logs = np.log(np.where(is_known, values, 1.0))
        expected = np.exp(np.interp(logs, np.log(self.confidences), np.log(self.errors)))
        return torch.as_tensor(np.where(is_known, expected, np.nan)).to(confidence)

    def extended(self, confidence: float, error: float) -> "ErrorCurve":
        """Append a knot.

        Args:
            confidence: Confidence of the new knot, above all others.
            error: Median relative error at the new knot. It is clamped to the error of the last knot.

        Returns:
            The extended curve.

        Raises:
            UserError: If `confidence` does not exceed that of the last knot.
        """
        return replace(
            self, confidences=(*self.confidences, confidence), errors=(*self.errors, min(error, self.errors[-1]))
        )

    def confidence_for_error(self, error: float) -> float:
        """Find the lowest confidence whose expected error does not exceed a limit.

        Args:
            error: Largest acceptable relative error, above 0.

        Returns:
            The confidence threshold: infinity if no confidence is sufficient; the smallest positive float32 if every
            known pixel is acceptable, so that unknown pixels (confidence 0) stay below the threshold.

        Raises:
            UserError: If `error` is not above 0.
        """
        if not error > 0:
            raise UserError(f"an expected error of {error}; wanted a fraction of depth above 0, such as 0.05")
        if error >= self.errors[0]:
            return torch.finfo(torch.float32).tiny
        if error < self.errors[-1]:
            return math.inf
        upper = next(knot for knot, value in enumerate(self.errors) if value <= error)
        x, y = np.log(self.confidences[upper - 1 : upper + 1]), np.log(self.errors[upper - 1 : upper + 1])
        # The error strictly decreases between these knots; otherwise the previous knot would satisfy the limit.
        return float(np.exp(x[0] + (math.log(error) - y[0]) / (y[1] - y[0]) * (x[1] - x[0])))

    def fraction_within(self, confidence: Float[Tensor, "*shape"], error: float) -> float:
        """Estimate the fraction of known pixels whose error does not exceed a limit.

        Args:
            confidence: Confidences of the pixels of a scene; 0 means unknown.
            error: Limit of the relative error.

        Returns:
            A fraction in [0, 1]; NaN if no pixel is known.
        """
        errors = self._error_distribution(confidence)
        return float((errors <= error).double().mean())

    def error_quantile(self, confidence: Float[Tensor, "*shape"], fraction: float) -> float:
        """Estimate a quantile of the errors of the known pixels.

        Args:
            confidence: Confidences of the pixels of a scene; 0 means unknown.
            fraction: Fraction of pixels with a smaller error, in [0, 1]; 0.5 gives the median.

        Returns:
            The relative error; NaN if no pixel is known.
        """
        errors = self._error_distribution(confidence)
        return float(errors.quantile(fraction)) if len(errors) else math.nan

    def _error_distribution(self, confidence: Tensor) -> Float[Tensor, "n"]:
        """Return a sample of the errors of the known pixels: their expected errors times every ratio."""
        flat = confidence.detach().flatten()
        expected = self.expected_error(flat[flat > 0].double()).sort().values
        sample = expected[stratified_indices(len(expected), MAX_PIXELS, expected.device)]
        return (sample[:, None] * sample.new_tensor(self.ratios)).flatten()


@dataclass(frozen=True)
class Calibration:
    """Error curves of the confidences that one model predicts.

    Errors are relative to depth, after aligning the scale of each clip.
    """

    measured_on: str
    """Description of the clips with ground truth that the curves were fitted to."""
    depth: ErrorCurve | None = None
    """Curve of |P - G| / G for predicted depth P and true depth G; None if the model does not predict depth."""
    points: ErrorCurve | None = None
    """Curve of the distance from the true point over the true depth; None if the model has no point maps."""
    tracks: ErrorCurve | None = None
    """Curve of the distance from the true point over its depth in the anchor frame, at times other than the anchor's.

    None if the model does not predict tracks.
    """

    def extended(self, confidence: float, error: float, measured_on: str) -> "Calibration":
        """Append a knot to every curve (`ErrorCurve.extended`), for pixels that were verified after prediction.

        Args:
            confidence: Confidence given to verified pixels, above all knots.
            error: Median relative error of verified pixels.
            measured_on: Description of how `error` was measured, appended to the description of the calibration.

        Returns:
            The extended calibration.

        Raises:
            UserError: If `confidence` does not exceed the last knot of a curve.
        """
        curves = {name: getattr(self, name) for name in ("depth", "points", "tracks")}
        extended = {name: curve.extended(confidence, error) for name, curve in curves.items() if curve is not None}
        return replace(self, measured_on=f"{self.measured_on}; {measured_on}", **extended)
