"""Alignments by a majority that agrees: seeded RANSAC for similarities of points and for inverse depth.

The published Sim(3) of the WorldTrack benchmark draws unseeded samples, so its numbers change from run to run; here
the same points and the same seed give the same answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.eval.alignment.similarity import Alignment, align_sim3
from recon4d.geometry import fit_similarity, transform_points

NUM_HYPOTHESES = 1000
MAX_POINTS = 16384
"""More points than this are represented by a random choice of this many."""

BATCH = 50
"""Hypotheses tried at a time: at most about 20 MB of residuals."""

MIN_THRESHOLD = 1e-6
"""The least inlier threshold of inverse depths, as a share of their median: flat truth has no deviation at all."""


def align_sim3_ransac(
    predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"], threshold: float, seed: int = 0
) -> Alignment:
    """Sim(3) that the most points agree with: residual ||s R p + t - g|| < `threshold`, in the unit of the truth.

    1000 hypotheses of 3 points each on at most 16384 random points; the one with the most inliers (the first of equals)
    is replaced by the closed form (Umeyama 1991) over its inliers. `count` is the number of these inliers. Fewer than
    3 points, or no hypothesis with 3 inliers: the closed form over all points, and `count` is 0.
    """
    if not 0 < threshold < float("inf"):
        raise ValueError(f"an inlier threshold of {threshold} is no distance; wanted one above 0, in the truth's unit")
    over_all = align_sim3(predicted, true)  # Refuses what cannot be aligned at all.
    no_consensus = Alignment("sim3 RANSAC", over_all.truth_from_prediction, 0)
    if len(true) < 3:
        return no_consensus

    rng = np.random.default_rng(seed)
    chosen = _choice(rng, len(true), predicted.device)
    a, b = predicted[chosen], true[chosen]
    best = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    for triples in _hypotheses(rng, len(a), 3, a.device):
        b_from_a = fit_similarity(a[triples].double(), b[triples].double())
        moved = transform_points(b_from_a, a.double().expand(len(triples), -1, -1))
        best = _most((moved - b.double()).norm(dim=-1) < threshold, best)
    count = int(best.sum())
    if count < 3:
        return no_consensus
    return Alignment("sim3 RANSAC", align_sim3(a[best], b[best]).truth_from_prediction, count)


@dataclass(frozen=True)
class InverseDepthFit:
    """A line from predicted to true inverse depth: 1 / true depth = scale * predicted + offset."""

    scale: float
    """Above 0; exactly 0 where the prediction says nothing about depth."""
    offset: float
    count: int
    """How many inliers it was computed from; 0 where the prediction says nothing about depth."""

    def apply(self, predicted_inverse: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Inverse depths in the unit of the truth; values at or below 0 are at infinity or beyond."""
        return self.scale * predicted_inverse + self.offset


def align_inverse_depth(
    predicted_inverse: Float[Tensor, "n"], true_depths: Float[Tensor, "n"], seed: int = 0
) -> InverseDepthFit:
    """The rising line that the most points agree with, which puts monocular disparity into the scene of known depths.

    1000 lines through 2 points each on at most 16384 random points. Inliers are closer to it than the median absolute
    deviation of the true inverse depths, a wide band that turns away gross outliers only; the line of the most inliers
    (the first of equals) is replaced by least squares over them. Disparity rises with inverse depth, so falling lines
    are not considered. Predictions that are all equal, and those for which no line rises or the least squares do not,
    say nothing about depth: scale 0, and the offset is the median true inverse depth. Raises ``ValueError`` for fewer
    than 2 points, values that are not finite, depths not above 0.
    """
    _check_inverse_depths(predicted_inverse, true_depths)
    rng = np.random.default_rng(seed)
    chosen = _choice(rng, len(true_depths), true_depths.device)
    x, y = predicted_inverse[chosen].double(), true_depths[chosen].double().reciprocal()
    median = y.median()
    threshold = torch.maximum((y - median).abs().median(), MIN_THRESHOLD * median)

    best = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for pairs in _hypotheses(rng, len(x), 2, x.device):
        # Two equal predictions make a slope of inf or NaN, which is not a line and has no inliers.
        slope = (y[pairs[:, 1]] - y[pairs[:, 0]]) / (x[pairs[:, 1]] - x[pairs[:, 0]])
        offset = y[pairs[:, 0]] - slope * x[pairs[:, 0]]
        residuals = (slope[:, None] * x + offset[:, None] - y).abs()
        best = _most((residuals < threshold) & (slope > 0)[:, None], best)

    nothing_said = InverseDepthFit(0.0, float(median), 0)
    if not best.any():
        return nothing_said
    # A rising line that has inliers goes through two different predictions, so the variance is above 0.
    centered = x[best] - x[best].mean()
    slope = (centered @ y[best]) / (centered @ centered)
    if not slope > 0:
        return nothing_said
    return InverseDepthFit(float(slope), float(y[best].mean() - slope * x[best].mean()), int(best.sum()))


def _most(inliers: Tensor, best: Tensor) -> Tensor:
    """The row of `inliers` with the most of them, or `best` where none has more."""
    counts = inliers.sum(dim=-1).cpu().numpy()
    first = int(counts.argmax())  # numpy's argmax is the first of equals, on every machine.
    return inliers[first] if counts[first] > int(best.sum()) else best


def _choice(rng: np.random.Generator, count: int, device: torch.device) -> Tensor:
    """Positions of at most `MAX_POINTS` of `count` points; all of them, in order, where they are few enough."""
    chosen = np.arange(count) if count <= MAX_POINTS else rng.choice(count, MAX_POINTS, replace=False)
    return torch.from_numpy(chosen).to(device)


def _hypotheses(rng: np.random.Generator, count: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """`NUM_HYPOTHESES` samples of `size` different positions below `count`, in batches (batch, size)."""
    samples = np.empty((NUM_HYPOTHESES, 0), dtype=np.int64)
    for drawn in range(size):
        # A number among those not drawn yet, moved up past the smaller ones that are.
        position = rng.integers(count - drawn, size=NUM_HYPOTHESES)
        for earlier in np.sort(samples, axis=1).T:
            position += position >= earlier
        samples = np.column_stack([samples, position])
    yield from torch.from_numpy(samples).to(device).split(BATCH)


def _check_inverse_depths(predicted_inverse: Tensor, true_depths: Tensor) -> None:
    if len(predicted_inverse) != len(true_depths) or len(true_depths) < 2:
        raise ValueError(
            f"{len(predicted_inverse)} predicted inverse depths and {len(true_depths)} true depths cannot be aligned; "
            "wanted the same number, at least 2"
        )
    wrong = ~(predicted_inverse.isfinite() & true_depths.isfinite() & (true_depths > 0))
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {len(true_depths)} pixels have a prediction that is not finite or a true depth "
            "that is not finite and above 0; leave them out before aligning"
        )
