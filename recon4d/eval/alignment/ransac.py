"""Seeded RANSAC for similarity transforms between point clouds.

The published Sim(3) alignment of the WorldTrack benchmark draws unseeded samples, so its results vary between runs.
Here the same points and seed give the same result.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.eval.alignment.similarity import Alignment, align_sim3
from recon4d.geometry import fit_similarity, transform_points

NUM_HYPOTHESES = 1000
"""Number of RANSAC hypotheses. Hand-tuned."""
MAX_POINTS = 16384
"""Largest number of points; larger sets are subsampled at random. Hand-tuned for run time."""
BATCH_SIZE = 50
"""Number of hypotheses that are evaluated at a time, which limits the residuals to about 20 MB."""


def align_sim3_ransac(
    predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"], threshold: float, seed: int = 0
) -> Alignment:
    """Fit a similarity transform by RANSAC.

    Each of 1000 hypotheses is fitted to 3 of at most 16384 randomly selected points. The hypothesis with the most
    inliers (the first of equals) is refined by the closed form (Umeyama 1991) over its inliers.

    Args:
        predicted: Predicted points.
        true: True points in the same order.
        threshold: Largest residual ||s R p + t - g|| of an inlier, exclusive, in the unit of the truth.
        seed: Seed of the random samples.

    Returns:
        The alignment; its `count` is the number of inliers. With fewer than 3 points, or if no hypothesis has 3
        inliers, it is the closed form over all points and `count` is 0.

    Raises:
        ValueError: If the threshold is not positive and finite, or for points that `align_sim3` rejects.
    """
    if not 0 < threshold < float("inf"):
        raise ValueError(f"the inlier threshold must be positive and finite, given {threshold}")
    over_all = align_sim3(predicted, true)
    no_consensus = Alignment("sim3 RANSAC", over_all.truth_from_prediction, 0)
    if len(true) < 3:
        return no_consensus

    rng = np.random.default_rng(seed)
    subset = _random_subset(rng, len(true), predicted.device)
    a, b = predicted[subset], true[subset]
    best = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    for triples in _triples(rng, len(a), a.device):
        b_from_a = fit_similarity(a[triples].double(), b[triples].double())
        aligned = transform_points(b_from_a, a.double().expand(len(triples), -1, -1))
        best = _most_inliers((aligned - b.double()).norm(dim=-1) < threshold, best)
    count = int(best.sum())
    if count < 3:
        return no_consensus
    return Alignment("sim3 RANSAC", align_sim3(a[best], b[best]).truth_from_prediction, count)


def _most_inliers(inliers: Tensor, best: Tensor) -> Tensor:
    """Return the mask with the most inliers among the rows of `inliers` and `best`, which wins ties."""
    counts = inliers.sum(dim=-1).cpu().numpy()
    first = int(counts.argmax())  # NumPy returns the first of equal maxima on every machine, torch does not.
    return inliers[first] if counts[first] > int(best.sum()) else best


def _random_subset(rng: np.random.Generator, count: int, device: torch.device) -> Tensor:
    """Return the indices of at most `MAX_POINTS` of `count` points; all in order if there are no more."""
    indices = np.arange(count) if count <= MAX_POINTS else rng.choice(count, MAX_POINTS, replace=False)
    return torch.from_numpy(indices).to(device)


def _triples(rng: np.random.Generator, count: int, device: torch.device) -> Iterator[Tensor]:
    """Yield `NUM_HYPOTHESES` samples of three different indices below `count`, in batches of shape (batch, 3)."""
    samples = np.empty((NUM_HYPOTHESES, 0), dtype=np.int64)
    for drawn in range(3):
        # Draw among the indices that are not used yet: increase the number past each smaller index in use.
        position = rng.integers(count - drawn, size=NUM_HYPOTHESES)
        for earlier in np.sort(samples, axis=1).T:
            position += position >= earlier
        samples = np.column_stack([samples, position])
    yield from torch.from_numpy(samples).to(device).split(BATCH_SIZE)
