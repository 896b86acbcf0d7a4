"""Robust estimation of a similarity between points, or of a mean, when many of the values are outliers.

No noise level has to be given. The initial estimate is the best of a fixed number of fits to three points (RANSAC;
Fischler and Bolles 1981), scored by the geometric mean of all residuals: this score needs no threshold and is lowest
for the estimate with which most points agree most closely. It is refined by iteratively reweighted least squares with
Tukey's biweight (Beaton and Tukey 1974), whose width follows the residuals, so that outliers end with weight 0.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import fit_similarity, transform_points

NUM_HYPOTHESES = 300
"""Number of initial fits. With half of the points wrong, one fit in eight is good: all 300 fail with probability
10^-17."""
BATCH = 50
"""Number of hypotheses that are scored at a time: at most about 20 MB of residuals."""
MAX_POINTS = 8192
"""Largest number of points that are used; larger sets are subsampled at random. Hand-tuned."""
INLIER_FRACTION = 0.4
"""Fraction of the points that are assumed to be inliers when the scale of the residuals is estimated. Hand-tuned."""
CUTOFF = 3.5
"""Residual from which the weight is 0, in multiples of the `INLIER_FRACTION` quantile of residuals. For normal noise in
space this keeps all but 1 point in 10^4."""
NUM_STEPS = 20
"""Number of reweighted least-squares steps. Hand-tuned."""
MIN_RESIDUAL = 1e-7
"""Residuals below this are rounding errors; the bound keeps the width of the biweight above 0 for exact points."""


@dataclass(frozen=True)
class RobustFit:
    """A robustly estimated similarity."""

    b_from_a: Float[Tensor, "4 4"]
    """Similarity transform (4, 4) in float64."""
    error: float
    """Median residual of all points, as a fraction of their `lengths`."""


def fit_similarity_robustly(
    points_a: Float[Tensor, "n 3"], points_b: Float[Tensor, "n 3"], lengths: Float[Tensor, "n"], seed: int = 0
) -> RobustFit:
    """Fit the similarity on which most points agree.

    Args:
        points_a: Points (n, 3).
        points_b: Corresponding points (n, 3).
        lengths: Length (n) to which the error of each point is proportional, above 0 and in the unit of `points_b`:
            the depth at which the point was observed.
        seed: Seed of the random choices. Equal points and seeds give equal results.

    Returns:
        The transform ``b_from_a`` and its error.

    Raises:
        ValueError: If there are fewer than 3 points.
    """
    if len(points_a) < 3:
        raise ValueError(f"{len(points_a)} points were given; a similarity needs at least 3")
    rng = np.random.default_rng(seed)
    sample = _random_subset(rng, len(points_a), MAX_POINTS)
    points_a, points_b, lengths = points_a[sample].double(), points_b[sample].double(), lengths[sample].double()

    triples = torch.from_numpy(rng.integers(len(points_a), size=(NUM_HYPOTHESES, 3)))
    hypotheses = fit_similarity(points_a[triples], points_b[triples])
    scores = [_score(_residuals(batch, points_a, points_b, lengths)) for batch in hypotheses.split(BATCH)]
    b_from_a = hypotheses[int(torch.cat(scores).argmin())]
    for _ in range(NUM_STEPS):
        residuals = _residuals(b_from_a[None], points_a, points_b, lengths)[0]
        b_from_a = fit_similarity(points_a, points_b, _biweight(residuals) / lengths.square())
    return RobustFit(b_from_a, float(_residuals(b_from_a[None], points_a, points_b, lengths).median()))


def robust_mean(values: Float[Tensor, "n"], seed: int = 0) -> float:
    """Compute the mean of the values on which most agree, by the same two steps as `fit_similarity_robustly`.

    Args:
        values: Values (n).
        seed: Seed of the random choices.

    Returns:
        The mean.

    Raises:
        ValueError: If there are no values.
    """
    if not len(values):
        raise ValueError("no values were given; a mean needs at least one")
    rng = np.random.default_rng(seed)
    values = values[_random_subset(rng, len(values), MAX_POINTS)].double()
    hypotheses = values[_random_subset(rng, len(values), NUM_HYPOTHESES)]
    scores = [_score((values - batch[:, None]).abs()) for batch in hypotheses.split(BATCH)]
    mean = hypotheses[int(torch.cat(scores).argmin())]
    for _ in range(NUM_STEPS):
        weights = _biweight((values - mean).abs())
        mean = (weights * values).sum() / weights.sum()
    return float(mean)


def _random_subset(rng: np.random.Generator, count: int, limit: int) -> Tensor:
    """Return at most `limit` indices below `count`: all in order, or a random choice if there are more."""
    return torch.from_numpy(np.arange(count) if count <= limit else rng.choice(count, limit, replace=False))


def _residuals(b_from_a: Tensor, points_a: Tensor, points_b: Tensor, lengths: Tensor) -> Float[Tensor, "hypothesis n"]:
    transformed = transform_points(b_from_a, points_a.expand(len(b_from_a), -1, -1))
    return (transformed - points_b).norm(dim=-1) / lengths


def _score(residuals: Float[Tensor, "hypothesis n"]) -> Float[Tensor, "hypothesis"]:
    """Return the logarithm of the geometric mean of the residuals."""
    return residuals.clamp(min=MIN_RESIDUAL).log().mean(dim=-1)


def _biweight(residuals: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return Tukey's weights (1 - (r / c)^2)^2 of residuals r >= 0; 0 beyond c."""
    inlier_residual = residuals.kthvalue(max(1, int(INLIER_FRACTION * len(residuals)))).values
    width = CUTOFF * inlier_residual.clamp(min=MIN_RESIDUAL)
    return (1 - (residuals / width).square()).clamp(min=0).square()
