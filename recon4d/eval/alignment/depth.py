"""Scale and shift between depths of the same pixels: exact minimizers, and the published iterations under their names.

All functions take flat vectors of the pixels that count and work in float64. Medians of an even count are the lower of
the two in the middle, as `torch.median` and the scripts of the field have it. All raise ``ValueError`` for vectors that
are empty, of different lengths, or not finite.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

GAP = 1e-12
"""The exact line is found when its sum is within this share of a lower bound of all sums."""


@dataclass(frozen=True)
class DepthAlignment:
    """True depth = scale * predicted depth + shift, and how many pixels it was computed from."""

    name: str
    scale: float
    shift: float
    count: int

    def apply(self, depths: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Predicted depths in the unit of the truth; a shift may bring them to 0 and below."""
        return self.scale * depths + self.shift


def median_scale(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> DepthAlignment:
    """s = median(G) / median(P). Raises ``ValueError`` where the median predicted depth is not above 0."""
    p, g = _checked(predicted, true)
    return DepthAlignment("median scale", _ratio_of_medians(p, g), 0.0, len(g))


def l1_scale(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> DepthAlignment:
    """The s that minimizes sum |s P - G| exactly: the median of G / P in which every pixel weighs |P|.

    Pixels with P = 0 have no say. Raises ``ValueError`` where all are 0.
    """
    p, g = _checked(predicted, true)
    speaks = p != 0
    if not speaks.any():
        raise ValueError(f"all of {len(p)} predicted depths are 0; wanted at least one other to scale")
    scale = _weighted_median(g[speaks] / p[speaks], p[speaks].abs())
    return DepthAlignment("L1 scale", float(scale), 0.0, len(g))


def l1_scale_weiszfeld(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> DepthAlignment:
    """The published approach to `l1_scale` (MonST3R, CUT3R: per-sequence scale): ten reweighted least squares.

    s = mean(G) / mean(P); ten times w = 1 / (|s P - G| + 1e-8), s = sum(w P G) / sum(w P^2); at least 1e-3 at the end
    (Weiszfeld 1937), which is too much for predictions in millimeters. Raises ``ValueError`` where the mean predicted
    depth is 0.
    """
    p, g = _checked(predicted, true)
    if p.mean() == 0:
        raise ValueError(f"the mean of {len(p)} predicted depths is 0; wanted another to start from")
    scale = g.mean() / p.mean()
    for _ in range(10):
        weights = 1 / ((scale * p - g).abs() + 1e-8)
        scale = (weights * p * g).sum() / (weights * p * p).sum()
    return DepthAlignment("L1 scale by Weiszfeld", max(float(scale), 1e-3), 0.0, len(g))


def least_squares_scale_and_shift(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> DepthAlignment:
    """The s and t that minimize sum (s P + t - G)^2. Predicted depths all equal: s = 1, t = mean(G - P)."""
    p, g = _checked(predicted, true)
    name = "least squares scale and shift"
    if (p == p[0]).all():
        return DepthAlignment(name, 1.0, float((g - p).mean()), len(g))
    centered = p - p.mean()
    scale = (centered @ (g - g.mean())) / (centered @ centered)
    return DepthAlignment(name, float(scale), float(g.mean() - scale * p.mean()), len(g))


def l1_scale_and_shift(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> DepthAlignment:
    """The s and t that minimize sum |s P + t - G| exactly (least absolute deviations), to a share of 1e-12.

    Over t the best shift of each s is a median, and what remains, f(s), is convex in s. Every s tried gives its tangent
    to f: two tangents bound f from below between them, and a third s is tried between them until the smallest sum
    found is as low as that bound. Where many lines are best, one of them is given. Predicted depths all equal: s = 1,
    t = median(G - P).
    """
    p, g = _checked(predicted, true)
    name = "L1 scale and shift"
    if (p == p[0]).all():
        return DepthAlignment(name, 1.0, float((g - p).median()), len(g))
    middle = p.median()
    scale = _best_slope(p - middle, g)
    return DepthAlignment(name, scale, float((g - scale * p).median()), len(g))


def l1_scale_and_shift_by_adam(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> DepthAlignment:
    """The published approach to `l1_scale_and_shift` (MonST3R, CUT3R: "lad2"), which stops short of it for far scenes.

    From s = median(G) / median(P) and t = 0, at most 1000 steps of Adam (Kingma and Ba 2015) with rate 1e-4 on
    sum |s P + t - G|, ended by the first step whose loss differs from the one before by less than 1e-6. As a step is
    about 1e-4, neither s nor t moves by much more than 0.1, and the answer depends on the units of both. In float32, as
    published, the rounding of the sum may end it sooner. Raises ``ValueError`` where the median predicted depth is not
    above 0.
    """
    p, g = _checked(predicted, true)
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
    """The smallest sum over all shifts at one slope, and how fast it rises with the slope there."""

    slope: float
    total: float
    rise: float


def _best_slope(p: Tensor, g: Tensor) -> float:
    """The minimizer of f(s) = min over t of sum |s p + t - g|, for p of median 0 that are not all equal."""
    centered = p - p.mean()
    middle = _tangent(p, g, float((centered @ g) / (centered @ centered)))
    # By the triangle inequality f(s) >= |s - s0| sum|p| - f(s0): farther away than this, f is above f(s0).
    reach = 2 * middle.total / float(p.abs().sum())
    left, right = (_tangent(p, g, middle.slope + side * reach) for side in (-1, 1))
    best = min(left, middle, right, key=lambda tangent: tangent.total)
    rounding = 4 * torch.finfo(p.dtype).eps * float(g.abs().sum())
    for turn in range(200):
        left, right = (left, middle) if middle.rise > 0 else (middle, right)
        slope, bound = _crossing(left, right)
        if best.total - bound <= GAP * best.total + rounding:
            break
        if turn % 3 == 0:  # Halves what is left even where the tangents' crossing creeps along one side.
            slope = (left.slope + right.slope) / 2
        if not left.slope < slope < right.slope:
            break  # No number lies between them.
        middle = _tangent(p, g, slope)
        best = min(best, middle, key=lambda tangent: tangent.total)
    return best.slope


def _tangent(p: Tensor, g: Tensor, slope: float) -> _Tangent:
    """f and a subgradient of it at `slope`: sum of l_i p_i, where l_i is the sign of residual i, and sums to 0.

    The shift is a median of g - s p, so the residuals that are 0 can share what the others' signs leave over: each of
    them has l_i in [-1, 1], as a subgradient of |r| at 0 may.
    """
    residuals = slope * p - g
    residuals = residuals - residuals.median()
    signs = residuals.sign()
    is_zero = signs == 0
    share = -signs.sum() / is_zero.sum()
    rise = signs @ p + share * p[is_zero].sum()
    return _Tangent(slope, float(residuals.abs().sum()), float(rise))


def _crossing(left: _Tangent, right: _Tangent) -> tuple[float, float]:
    """Where two tangents meet, and their height there: no f between them is lower."""
    bend = right.rise - left.rise
    if bend <= 0:
        return left.slope, min(left.total, right.total)
    step = (left.total - right.total + right.rise * (right.slope - left.slope)) / bend
    return left.slope + step, left.total + left.rise * step


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """The lower of the values that minimize sum of weight * |value - m|."""
    order = values.argsort()
    below = weights[order].cumsum(dim=0)
    return values[order][int((below < below[-1] / 2).sum())]


def _ratio_of_medians(p: Tensor, g: Tensor) -> float:
    if not p.median() > 0:
        raise ValueError(f"the median of {len(p)} predicted depths is {float(p.median()):g}; wanted one above 0")
    return float(g.median() / p.median())


def _checked(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    if len(predicted) != len(true) or len(true) < 1:
        raise ValueError(
            f"{len(predicted)} predicted and {len(true)} true depths cannot be aligned; wanted the same number, "
            "at least 1"
        )
    for name, depths in (("predicted", predicted), ("true", true)):
        wrong = int((~depths.isfinite()).sum())
        if wrong:
            raise ValueError(f"{wrong} of {len(depths)} {name} depths are not finite; leave them out before aligning")
    return predicted.double(), true.double()
