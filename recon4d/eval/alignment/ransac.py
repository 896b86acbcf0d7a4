"""Seeded RANSAC: similarity transforms between point clouds, and affine alignment of inverse depth.

The published Sim(3) alignment of the WorldTrack benchmark draws unseeded samples, so its results vary between runs.
Here the same points and seed give the same result.
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
"""Number of RANSAC hypotheses. Hand-tuned."""
MAX_POINTS = 16384
"""Largest number of points; larger sets are subsampled at random. Hand-tuned for run time."""
BATCH_SIZE = 50
"""Number of hypotheses that are evaluated at a time, which limits the residuals to about 20 MB."""
MIN_THRESHOLD = 1e-6
"""Smallest inlier threshold of inverse depths, as a share of their median; the deviation of constant depths is 0."""


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
    for triples in _hypotheses(rng, len(a), 3, a.device):
        b_from_a = fit_similarity(a[triples].double(), b[triples].double())
        aligned = transform_points(b_from_a, a.double().expand(len(triples), -1, -1))
        best = _most_inliers((aligned - b.double()).norm(dim=-1) < threshold, best)
    count = int(best.sum())
    if count < 3:
        return no_consensus
    return Alignment("sim3 RANSAC", align_sim3(a[best], b[best]).truth_from_prediction, count)


@dataclass(frozen=True)
class InverseDepthFit:
    """Affine map from predicted to true inverse depth: 1 / true depth = scale * predicted + offset."""

    scale: float
    """Factor above 0; exactly 0 if the prediction is not correlated with depth."""
    offset: float
    """Offset in units of true inverse depth."""
    count: int
    """Number of inliers that were fitted; 0 if the prediction is not correlated with depth."""

    def apply(self, predicted_inverse: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Align predicted inverse depths.

        Args:
            predicted_inverse: Predicted inverse depths of any shape.

        Returns:
            Inverse depths in the unit of the truth; values of 0 or below mean infinite depth.
        """
        return self.scale * predicted_inverse + self.offset


def align_inverse_depth(
    predicted_inverse: Float[Tensor, "n"], true_depths: Float[Tensor, "n"], seed: int = 0
) -> InverseDepthFit:
    """Fit monocular inverse depth (disparity) to known depths by RANSAC.

    Each of 1000 hypotheses is a line through 2 of at most 16384 randomly selected pixels. Inliers are closer to the
    line than the median absolute deviation of the true inverse depths, a wide band that rejects only gross outliers.
    The line with the most inliers (the first of equals) is refined by least squares over them. Lines with a negative
    slope are not considered, because disparity increases with inverse depth.

    Args:
        predicted_inverse: Predicted inverse depths, up to scale and shift.
        true_depths: True depths of the same pixels, above 0.
        seed: Seed of the random samples.

    Returns:
        The fit. If all predictions are equal, or if no hypothesis or the refined line does not increase, the scale is 0
        and the offset is the median true inverse depth.

    Raises:
        ValueError: For fewer than 2 pixels, values that are not finite, or depths not above 0.
    """
    _validate_inverse_depths(predicted_inverse, true_depths)
    rng = np.random.default_rng(seed)
    subset = _random_subset(rng, len(true_depths), true_depths.device)
    x, y = predicted_inverse[subset].double(), true_depths[subset].double().reciprocal()
    median = y.median()
    threshold = torch.maximum((y - median).abs().median(), MIN_THRESHOLD * median)

    best = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for pairs in _hypotheses(rng, len(x), 2, x.device):
        # Equal predictions give a slope of inf or NaN and therefore no inliers.
        slope = (y[pairs[:, 1]] - y[pairs[:, 0]]) / (x[pairs[:, 1]] - x[pairs[:, 0]])
        offset = y[pairs[:, 0]] - slope * x[pairs[:, 0]]
        residuals = (slope[:, None] * x + offset[:, None] - y).abs()
        best = _most_inliers((residuals < threshold) & (slope > 0)[:, None], best)

    constant = InverseDepthFit(0.0, float(median), 0)
    if not best.any():
        return constant
    # An increasing line with inliers passes through two different predictions, so the variance is above 0.
    centered = x[best] - x[best].mean()
    slope = (centered @ y[best]) / (centered @ centered)
    if not slope > 0:
        return constant
    return InverseDepthFit(float(slope), float(y[best].mean() - slope * x[best].mean()), int(best.sum()))


def _most_inliers(inliers: Tensor, best: Tensor) -> Tensor:
    """Return the mask with the most inliers among the rows of `inliers` and `best`, which wins ties."""
    counts = inliers.sum(dim=-1).cpu().numpy()
    first = int(counts.argmax())  # NumPy returns the first of equal maxima on every machine, torch does not.
    return inliers[first] if counts[first] > int(best.sum()) else best


def _random_subset(rng: np.random.Generator, count: int, device: torch.device) -> Tensor:
    """Return the indices of at most `MAX_POINTS` of `count` points; all in order if there are no more."""
    indices = np.arange(count) if count <= MAX_POINTS else rng.choice(count, MAX_POINTS, replace=False)
    return torch.from_numpy(indices).to(device)


def _hypotheses(rng: np.random.Generator, count: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield `NUM_HYPOTHESES` samples of `size` different indices below `count`, in batches of shape (batch, size)."""
    samples = np.empty((NUM_HYPOTHESES, 0), dtype=np.int64)
    for drawn in range(size):
        # Draw among the indices that are not used yet: increase the number past each smaller index in use.
        position = rng.integers(count - drawn, size=NUM_HYPOTHESES)
        for earlier in np.sort(samples, axis=1).T:
            position += position >= earlier
        samples = np.column_stack([samples, position])
    yield from torch.from_numpy(samples).to(device).split(BATCH_SIZE)


def _validate_inverse_depths(predicted_inverse: Tensor, true_depths: Tensor) -> None:
    if len(predicted_inverse) != len(true_depths) or len(true_depths) < 2:
        raise ValueError(
            f"{len(predicted_inverse)} predicted inverse depths and {len(true_depths)} true depths cannot be aligned; "
            "their numbers must be equal and at least 2"
        )
    is_wrong = ~(predicted_inverse.isfinite() & true_depths.isfinite() & (true_depths > 0))
    if is_wrong.any():
        raise ValueError(
            f"{int(is_wrong.sum())} of {len(true_depths)} pixels have a prediction that is not finite or a true depth "
            "that is not finite and above 0; exclude them from the alignment"
        )
