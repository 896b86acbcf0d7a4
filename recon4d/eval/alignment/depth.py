"""Scale and shift between predicted and true depths: exact minimizers and the published iterative methods.

All functions take vectors of the pixels to align and compute in float64. The median of an even number of values is the
lower of the two middle ones, as in `torch.median` and in published evaluation scripts. All functions raise `ValueError`
for vectors that are empty, differ in length or are not finite. P is the predicted and G the true depth.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

L1_TOLERANCE = 1e-12
"""Relative tolerance of the L1 fit: the search stops when the best sum is this close to a lower bound of all sums."""


@dataclass(frozen=True)
class DepthAlignment:
    """Affine map from predicted to true depth: true = scale * predicted + shift."""

    name: str
    """Name of the method, as shown in reports."""
    scale: float
    """Factor of the predicted depth."""
    shift: float
    """Offset in the unit of the truth; 0 for methods that fit only a scale."""
    count: int
    """Number of pixels that were fitted."""

    def apply(self, depths: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Align predicted depths.

        Args:
            depths: Predicted depths of any shape.

        Returns:
            Depths in the unit of the truth; a negative shift can make them 0 or negative.
        """
        return self.scale * depths + self.shift


def median_scale(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> DepthAlignment:
    """Compute the ratio of medians s = median(G) / median(P).

    Args:
        predicted: Predicted depths of the pixels to align.
        true: True depths of the same pixels.

    Returns:
        The alignment, without shift.

    Raises:
        ValueError: If the median predicted depth is not above 0.
    """
    p, g = _validated(predicted, true)
    return DepthAlignment("median scale", _ratio_of_medians(p, g), 0.0, len(g))


def l1_scale_weiszfeld(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> DepthAlignment:
    """Minimize sum |s P - G| over s by ten iterations of reweighted least squares, as published (MonST3R, CUT3R).

    This is the algorithm of Weiszfeld (1937). The scale starts at mean(G) / mean(P). Each iteration computes w = 1 /
    (|s P - G| + 1e-8) and s = sum(w P G) / sum(w P^2). The result is at least 1e-3, which is too large for predictions
    in millimeters.

    Args:
        predicted: Predicted depths of the pixels to align.
        true: True depths of the same pixels.

    Returns:
        The alignment, without shift.

    Raises:
        ValueError: If the mean predicted depth is 0.
    """
    p, g = _validated(predicted, true)
    if p.mean() == 0:
        raise ValueError(f"the mean of {len(p)} predicted depths is 0, so there is no initial scale")
    scale = g.mean() / p.mean()
    for _ in range(10):
        weights = 1 / ((scale * p - g).abs() + 1e-8)
        scale = (weights * p * g).sum() / (weights * p * p).sum()
    return DepthAlignment("L1 scale by Weiszfeld", max(float(scale), 1e-3), 0.0, len(g))


def l1_scale_and_shift(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> DepthAlignment:
    """Minimize sum |s P + t - G| over s and t exactly (least absolute deviations), to a relative tolerance of 1e-12.

    For a given s the best t is a median, and the remaining function f(s) is convex. Each evaluation of f yields a
    tangent. Two tangents bound f from below between their slopes; new slopes between them are evaluated until the
    smallest value found reaches this bound.

    Args:
        predicted: Predicted depths of the pixels to align.
        true: True depths of the same pixels.

    Returns:
        The alignment, one of them if the minimizer is not unique; s = 1 and t = median(G - P) if all predicted depths
        are equal.
    """
    p, g = _validated(predicted, true)
    name = "L1 scale and shift"
    if (p == p[0]).all():
        return DepthAlignment(name, 1.0, float((g - p).median()), len(g))
    scale = _best_slope(p - p.median(), g)
    return DepthAlignment(name, scale, float((g - scale * p).median()), len(g))


def l1_scale_and_shift_by_adam(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> DepthAlignment:
    """Approximate `l1_scale_and_shift` by Adam, as published (MonST3R, CUT3R: "lad2").

    Adam (Kingma and Ba 2015) starts at s = median(G) / median(P) and t = 0 and minimizes sum |s P + t - G| with a step
    size of 1e-4 for at most 1000 steps, until the loss changes by less than 1e-6. Neither s nor t can therefore change
    by much more than 0.1, so the minimum is not reached for distant scenes, and the result depends on the units of
    prediction and truth. The published scripts use float32, where rounding of the sum may stop the iteration earlier.

    Args:
        predicted: Predicted depths of the pixels to align.
        true: True depths of the same pixels.

    Returns:
        The alignment.

    Raises:
        ValueError: If the median predicted depth is not above 0.
    """
    p, g = _validated(predicted, true)
    position = torch.tensor([_ratio_of_medians(p, g), 0.0], dtype=torch.float64)
    mean, mean_square = torch.zeros_like(position), torch.zeros_like(position)
    previous = math.inf
    residuals, signs = torch.empty_like(p), torch.empty_like(p)
    for step in range(1, 1001):
        scale, shift = position.tolist()
        torch.sub(shift, g, out=residuals).add_(p, alpha=scale)
        torch.sign(residuals, out=signs)
        loss = float(signs @ residuals)
        gradient = torch.stack([signs @ p, signs.sum()]).cpu()
        mean = 0.9 * mean + 0.1 * gradient
        mean_square = 0.999 * mean_square + 0.001 * gradient.square()
        size = (mean_square / (1 - 0.999**step)).sqrt() + 1e-8
        position = position - 1e-4 * mean / (1 - 0.9**step) / size
        if abs(previous - loss) < 1e-6:
            break
        previous = loss
    return DepthAlignment("L1 scale and shift by Adam", float(position[0]), float(position[1]), len(g))


@dataclass(frozen=True)
class _Tangent:
    """Tangent of f(s), the smallest sum of absolute deviations over all shifts, at one slope s."""

    slope: float
    """Slope s of the line at which f was evaluated."""
    total: float
    """Value of f."""
    rise: float
    """Subgradient of f."""


def _best_slope(p: Tensor, g: Tensor) -> float:
    """Minimize f(s) = min over t of sum |s p + t - g| for p with median 0 and at least two different values."""
    centered = p - p.mean()
    middle = _tangent(p, g, float((centered @ g) / (centered @ centered)))
    # By the triangle inequality f(s) >= |s - s0| sum|p| - f(s0), so f(s) > f(s0) at larger distances from s0.
    reach = 2 * middle.total / float(p.abs().sum())
    left, right = (_tangent(p, g, middle.slope + side * reach) for side in (-1, 1))
    best = min(left, middle, right, key=lambda tangent: tangent.total)
    rounding = 4 * torch.finfo(p.dtype).eps * float(g.abs().sum())
    for iteration in range(200):
        left, right = (left, middle) if middle.rise > 0 else (middle, right)
        slope, bound = _intersection(left, right)
        if best.total - bound <= L1_TOLERANCE * best.total + rounding:
            break
        if iteration % 3 == 0:  # Bisection guarantees progress if the intersections stay on one side.
            slope = (left.slope + right.slope) / 2
        if not left.slope < slope < right.slope:
            break  # There is no floating-point number between them.
        middle = _tangent(p, g, slope)
        best = min(best, middle, key=lambda tangent: tangent.total)
    return best.slope


def _tangent(p: Tensor, g: Tensor, slope: float) -> _Tangent:
    """Evaluate f and a subgradient at a slope: sum of l_i p_i, where l_i is the sign of residual i and sum l_i = 0.

    The shift is a median of g - s p. The residuals of 0 share the remaining sum of signs: their l_i are in [-1, 1], the
    subgradients of |r| at 0.
    """
    residuals = slope * p - g
    residuals = residuals - residuals.median()
    signs = residuals.sign()
    is_zero = signs == 0
    share = -signs.sum() / is_zero.sum()
    rise = signs @ p + share * p[is_zero].sum()
    return _Tangent(slope, float(residuals.abs().sum()), float(rise))


def _intersection(left: _Tangent, right: _Tangent) -> tuple[float, float]:
    """Return slope and value of the intersection of two tangents, which is a lower bound of f between them."""
    difference = right.rise - left.rise
    if difference <= 0:
        return left.slope, min(left.total, right.total)
    step = (left.total - right.total + right.rise * (right.slope - left.slope)) / difference
    return left.slope + step, left.total + left.rise * step


def _ratio_of_medians(p: Tensor, g: Tensor) -> float:
    if not p.median() > 0:
        raise ValueError(f"the median of {len(p)} predicted depths is {float(p.median()):g}; it must be above 0")
    return float(g.median() / p.median())


def _validated(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Check the depths to align and return them in float64."""
    if len(predicted) != len(true) or len(true) < 1:
        raise ValueError(
            f"{len(predicted)} predicted and {len(true)} true depths cannot be aligned; their numbers must be equal "
            "and at least 1"
        )
    for name, depths in (("predicted", predicted), ("true", true)):
        wrong = int((~depths.isfinite()).sum())
        if wrong:
            raise ValueError(f"{wrong} of {len(depths)} {name} depths are not finite; exclude them from the alignment")
    return predicted.double(), true.double()
