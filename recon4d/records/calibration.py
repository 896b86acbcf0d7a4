"""What the confidence of a model means: the error to expect of a pixel, learned where the truth was known."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import stratified_indices

REPRESENTATIVES = 2000
"""So many pixels, evenly taken in the order of their expected errors, stand for all pixels of a scene."""


@dataclass(frozen=True)
class ErrorCurve:
    """The median relative error at each confidence, and how errors lie around it.

    `errors` at `confidences` are knots, joined by straight lines of log error over log confidence; they never rise.
    Beyond the first and the last knot the error stays what it is there: nothing was measured that says more. `ratios`
    are evenly spaced quantiles (the middles of equal parts) of error over expected error, taken to be the same at every
    confidence. Errors are shares of depth: 0.05 is 5 %.
    """

    confidences: tuple[float, ...]
    errors: tuple[float, ...]
    ratios: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.confidences or len(self.confidences) != len(self.errors) or not self.ratios:
            raise ValueError(
                f"an error curve has {len(self.confidences)} confidences, {len(self.errors)} errors and "
                f"{len(self.ratios)} ratios; wanted as many errors as confidences, and at least one of each"
            )
        numbers = (*self.confidences, *self.errors, *self.ratios)
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise ValueError(f"an error curve has {self}; wanted finite numbers above 0")
        if np.any(np.diff(self.confidences) <= 0) or np.any(np.diff(self.errors) > 0):
            raise ValueError(f"an error curve has {self}; wanted confidences that rise and errors that never do")
        if np.any(np.diff(self.ratios) < 0):
            raise ValueError(f"an error curve has ratios {self.ratios}; wanted them in ascending order")

    def expected_error(self, confidence: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The median relative error of pixels of this confidence; NaN where it is 0 (unknown)."""
        values = confidence.detach().double().cpu().numpy()
        is_known = values > 0
        logs = np.log(np.where(is_known, values, 1.0))
        expected = np.exp(np.interp(logs, np.log(self.confidences), np.log(self.errors)))
        return torch.as_tensor(np.where(is_known, expected, np.nan)).to(confidence)

    def extended(self, confidence: float, error: float) -> "ErrorCurve":
        """The curve with one more knot beyond its last: pixels of this confidence are wrong by `error` in the median.

        An error above the last knot's becomes that one's. Raises ``ValueError`` for a confidence that is not beyond it.
        """
        return replace(
            self, confidences=(*self.confidences, confidence), errors=(*self.errors, min(error, self.errors[-1]))
        )

    def confidence_at(self, error: float) -> float:
        """The least confidence whose expected error is at most `error`.

        Where every known pixel will do it is the least number above 0, so that unknown pixels stay out; where none
        will, infinity. Raises ``ValueError`` for an error that is not above 0.
        """
        if not error > 0:
            raise ValueError(f"an expected error of {error}; wanted a share of depth above 0, such as 0.05")
        if error >= self.errors[0]:
            return torch.finfo(torch.float32).tiny
        if error < self.errors[-1]:
            return math.inf
        upper = next(knot for knot, value in enumerate(self.errors) if value <= error)
        x, y = np.log(self.confidences[upper - 1 : upper + 1]), np.log(self.errors[upper - 1 : upper + 1])
        # Between these two knots the error falls, or the one before would be low enough.
        return float(np.exp(x[0] + (math.log(error) - y[0]) / (y[1] - y[0]) * (x[1] - x[0])))

    def share_within(self, confidence: Float[Tensor, "*shape"], error: float) -> float:
        """The share of the known among these pixels that is expected to be wrong by at most `error`; NaN of none."""
        outcomes = self._outcomes(confidence)
        return float((outcomes <= error).double().mean())

    def error_of_share(self, confidence: Float[Tensor, "*shape"], share: float) -> float:
        """The error within which this `share` of the known pixels is expected to be; NaN of none."""
        outcomes = self._outcomes(confidence)
        return float(outcomes.quantile(share)) if len(outcomes) else math.nan

    def _outcomes(self, confidence: Tensor) -> Float[Tensor, "n"]:
        """The errors that pixels like these come out with: what is expected of each, times every ratio."""
        known = confidence.detach().flatten()
        expected = self.expected_error(known[known > 0].double()).sort().values
        few = expected[stratified_indices(len(expected), REPRESENTATIVES, expected.device)]
        return (few[:, None] * few.new_tensor(self.ratios)).flatten()


@dataclass(frozen=True)
class Calibration:
    """What the confidences of one model mean, field by field; None for what it does not answer.

    Errors are relative to depth, after one scale for the clip: of `depth`, |P - G| / G; of `points`, the distance from
    the true point over the true depth; of `tracks`, the same at other times than the anchor's, over the point's depth
    in its anchor frame.
    """

    measured_on: str
    """The clips with truth that it was learned from, in words."""
    depth: ErrorCurve | None = None
    points: ErrorCurve | None = None
    tracks: ErrorCurve | None = None

    def extended(self, confidence: float, error: float, measured_on: str) -> "Calibration":
        """The same for a scene some pixels of which are better known than the model says (`ErrorCurve.extended`)."""
        curves = {name: getattr(self, name) for name in ("depth", "points", "tracks")}
        longer = {name: curve.extended(confidence, error) for name, curve in curves.items() if curve is not None}
        return replace(self, measured_on=f"{self.measured_on}; {measured_on}", **longer)
