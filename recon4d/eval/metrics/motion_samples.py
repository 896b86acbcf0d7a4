"""Metrics of sampled motion: best and mean error, energy score, coverage of intervals, diversity."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class MotionScores:
    """Scores of one way to predict motion on one clip; lengths in meters, averaged over tracks."""

    best: float
    """Smallest error of a track among the samples (minimum average displacement error)."""
    best_together: float
    """Error of the one sample that is best for the whole clip."""
    mean: float
    """Error of the mean of the samples."""
    energy: float
    """Energy score (Gneiting and Raftery 2007), the generalization of the CRPS to positions: proper, lower is better,
    and equal to the error of a single prediction."""
    diversity: float
    """Mean distance between two samples; 0 for a single prediction."""
    within_50: float
    """Share of coordinates within their 50 % prediction interval; NaN for a single prediction."""
    within_90: float
    """The same for 90 %."""
    tracks: int
    """Number of tracks."""


def score_motion(
    samples: Float[Tensor, "sample track time 3"],
    truth: Float[Tensor, "track time 3"],
    is_counted: Bool[Tensor, "track time"],
) -> MotionScores | None:
    """Score samples of motion.

    Args:
        samples: Sampled positions; a single one for deterministic predictions.
        truth: True positions in the same frame and unit.
        is_counted: Positions that count. The error of a track is the mean over them.

    Returns:
        The scores; None if nothing counts.
    """
    weights = is_counted.to(truth.dtype)
    has_any = is_counted.any(dim=-1)
    if not has_any.any():
        return None

    def of_tracks(values: Float[Tensor, "*more track time"]) -> Float[Tensor, "*more counted"]:
        return ((values * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1))[..., has_any]

    count = len(samples)
    errors = (samples - truth).norm(dim=-1)
    by_track = of_tracks(errors)
    mean = samples.mean(dim=0)
    between = torch.zeros_like(truth[..., 0])
    within_50 = within_90 = math.nan
    if count > 1:
        # Every pair once; the estimate of the distance between two samples is unbiased.
        for first in range(count - 1):
            between += (samples[first + 1 :] - samples[first]).norm(dim=-1).sum(dim=0)
        between *= 2 / (count * (count - 1))
        within_50, within_90 = (_share_within(samples, truth, is_counted, level) for level in (0.5, 0.9))
    return MotionScores(
        best=float(by_track.amin(dim=0).mean()),
        best_together=float(by_track.mean(dim=1).amin()),
        mean=float(of_tracks((mean - truth).norm(dim=-1)).mean()),
        energy=float(of_tracks(errors.mean(dim=0) - between / 2).mean()),
        diversity=float(of_tracks(between).mean()),
        within_50=within_50,
        within_90=within_90,
        tracks=int(has_any.sum()),
    )


def _share_within(samples: Tensor, truth: Tensor, is_counted: Tensor, level: float) -> float:
    """Return the share of coordinates within the prediction interval of a normal distribution.

    Its mean and standard deviation are estimated from the samples, so the interval is that of Student's t.
    """
    from scipy.stats import t

    count = len(samples)
    factor = float(t.ppf((1 + level) / 2, count - 1)) * math.sqrt(1 + 1 / count)
    within = (truth - samples.mean(dim=0)).abs() <= factor * samples.std(dim=0)
    return float(within[is_counted].to(truth.dtype).mean())
