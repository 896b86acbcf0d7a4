"""Fit of curves to tracks: weighted least squares with as many control points as the observations justify."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry.bsplines import DEGREE, bspline_weights, refine_bspline

MAX_SEGMENTS = 16
"""Largest number of segments of a curve. Hand-tuned: clips of hundreds of frames are cut into windows."""
SMOOTHNESS = 1e-6
"""Weight of the squared third differences of control points, relative to one observation. It only determines what the
observations leave open, such as the time in which a point is hidden. Hand-tuned."""
NOISE = 1e-3
"""Standard deviation of the positions below which a better fit counts as noise, relative to the extent of the track.
Hand-tuned."""


def fit_curves(
    points: Float[Tensor, "time curve 3"],
    weights: Float[Tensor, "time curve"],
    times: Float[Tensor, " time"],
    max_segments: int = MAX_SEGMENTS,
) -> Float[Tensor, "curve control 3"]:
    """Fit a uniform cubic B-spline to each track.

    The number of segments is the power of two with the best Bayesian information criterion (Schwarz 1978); all curves
    are then refined to the largest number, which does not change them.

    Args:
        points: Positions of each track at the times.
        weights: Weight of each position; 0 excludes it.
        times: Increasing times in seconds.
        max_segments: Largest number of segments.

    Returns:
        Control points, in the dtype of `points`. A track without positions gets those of the origin.
    """
    observed = (weights > 0).sum(dim=0)
    best_score = points.new_full((points.shape[1],), torch.inf, dtype=torch.float64)
    best: Tensor | None = None
    extent = _extents(points, weights)
    segments = 1
    while segments <= max_segments and (segments == 1 or segments + DEGREE <= len(times)):
        fitted, residual = _fit(points, weights, times, segments)
        parameters = segments + DEGREE
        noise = (NOISE * extent) ** 2
        score = observed * torch.log(residual / observed.clamp(min=1) + noise) + parameters * torch.log(
            observed.clamp(min=1).double()
        )
        # As many unknowns as observations explain anything.
        score = torch.where((observed > parameters) | (segments == 1), score, torch.inf)
        is_better = score < best_score
        best = fitted if best is None else torch.where(is_better[:, None, None], fitted, refine_bspline(best))
        best_score = torch.minimum(score, best_score)
        segments *= 2
    assert best is not None
    return best.to(points.dtype)


def _fit(points: Tensor, weights: Tensor, times: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Return control points (curve, control, 3) and the weighted sum of squared residuals of each curve, in float64."""
    start, end = float(times.min()), float(times.max())
    parameter = (times.double() - start) * (segments / max(end - start, 1e-12))
    basis = bspline_weights(parameter, segments)  # (time, control)
    differences = torch.eye(segments + DEGREE, dtype=torch.float64, device=points.device)
    for _ in range(DEGREE):
        differences = differences.diff(dim=0)
    penalty = SMOOTHNESS * differences.T @ differences
    penalty = penalty + 1e-10 * torch.eye(len(penalty), dtype=torch.float64, device=points.device)
    weights = weights.double()
    weights = weights / weights.amax(dim=0).clamp(min=1e-12)
    observed = torch.where(weights[..., None] > 0, points.double(), 0.0)
    center = (observed * weights[..., None]).sum(dim=0) / weights.sum(dim=0).clamp(min=1e-12)[:, None]
    centered = torch.where(weights[..., None] > 0, observed - center, 0.0)
    normal = torch.einsum("tk,tc,tl->ckl", basis, weights, basis) + penalty
    right = torch.einsum("tk,tc,tcx->ckx", basis, weights, centered)
    control = torch.linalg.solve(normal, right)
    residuals = torch.einsum("tk,ckx->tcx", basis, control) - centered
    squared = (weights * residuals.square().sum(dim=-1)).sum(dim=0)
    return control + center[:, None], squared


def _extents(points: Tensor, weights: Tensor) -> Tensor:
    """Return the size of the box around the positions of each track, in float64."""
    is_observed: Bool[Tensor, "time curve 1"] = (weights > 0)[..., None]
    low = torch.where(is_observed, points, torch.inf).amin(dim=0)
    high = torch.where(is_observed, points, -torch.inf).amax(dim=0)
    return torch.where(is_observed.any(dim=0), high - low, 0.0).double().norm(dim=-1)
