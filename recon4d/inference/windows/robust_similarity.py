"""A similarity between points, or a mean of numbers, of which many are wrong: the largest group that agrees decides.

Nothing has to be known about the noise. The start is the best of a fixed number of fits to three points (Fischler and
Bolles 1981), judged by the geometric mean of all residuals: it is least where the most points agree the closest, and
asks for no threshold. Then least squares is repeated with Tukey's biweight (Beaton and Tukey 1974), whose width follows
the residuals, so that wrong points end with no weight at all.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import fit_similarity, transform_points

NUM_HYPOTHESES = 300
"""With half the points wrong one start in eight is good: 300 miss them all once in 10^17 times."""
BATCH = 50
"""Hypotheses tried at a time: at most about 20 MB of residuals."""
MAX_POINTS = 8192
"""More points than this are represented by a random choice of this many."""
TRUSTED_SHARE = 0.4
"""Share of the points that tells how large the residuals of right points are: fewer than that must not be right."""
REJECTED_BEYOND = 3.5
"""Times that residual from which on a point has no weight; of normal noise in space this keeps all but 1 in 10^4."""
NUM_STEPS = 20
LEAST_RESIDUAL = 1e-7
"""Residuals below this are rounding: exact points would leave a biweight of no width."""


@dataclass(frozen=True)
class RobustFit:
    """A similarity in float64, and how well it holds: the median residual, in units of the lengths given."""

    b_from_a: Float[Tensor, "4 4"]
    error: float


def fit_similarity_robustly(
    points_a: Float[Tensor, "n 3"], points_b: Float[Tensor, "n 3"], lengths: Float[Tensor, "n"], seed: int = 0
) -> RobustFit:
    """``b_from_a`` of the points that agree; residuals count as shares of `lengths` (> 0, in the unit of b).

    Lengths are what errors are expected to grow with: the depth at which a point was seen. The same points and seed
    give the same answer. Raises ``ValueError`` for fewer than 3 points.
    """
    if len(points_a) < 3:
        raise ValueError(f"{len(points_a)} points were given; a similarity needs at least 3")
    rng = np.random.default_rng(seed)
    chosen = _choice(rng, len(points_a), MAX_POINTS)
    points_a, points_b, lengths = points_a[chosen].double(), points_b[chosen].double(), lengths[chosen].double()

    triples = torch.from_numpy(rng.integers(len(points_a), size=(NUM_HYPOTHESES, 3)))
    starts = fit_similarity(points_a[triples], points_b[triples])
    scores = [_score(_residuals(batch, points_a, points_b, lengths)) for batch in starts.split(BATCH)]
    b_from_a = starts[int(torch.cat(scores).argmin())]
    for _ in range(NUM_STEPS):
        residuals = _residuals(b_from_a[None], points_a, points_b, lengths)[0]
        b_from_a = fit_similarity(points_a, points_b, _biweight(residuals) / lengths.square())
    return RobustFit(b_from_a, float(_residuals(b_from_a[None], points_a, points_b, lengths).median()))


def robust_mean(values: Float[Tensor, "n"], seed: int = 0) -> float:
    """The mean of the numbers that agree, by the same two steps. Raises ``ValueError`` where there are none."""
    if not len(values):
        raise ValueError("no numbers were given; a mean needs at least one")
    rng = np.random.default_rng(seed)
    values = values[_choice(rng, len(values), MAX_POINTS)].double()
    starts = values[_choice(rng, len(values), NUM_HYPOTHESES)]
    scores = [_score((values - batch[:, None]).abs()) for batch in starts.split(BATCH)]
    mean = starts[int(torch.cat(scores).argmin())]
    for _ in range(NUM_STEPS):
        weights = _biweight((values - mean).abs())
        mean = (weights * values).sum() / weights.sum()
    return float(mean)


def _choice(rng: np.random.Generator, count: int, most: int) -> Tensor:
    """Positions of at most `most` of `count` points; all of them, in order, where they are few enough."""
    return torch.from_numpy(np.arange(count) if count <= most else rng.choice(count, most, replace=False))


def _residuals(b_from_a: Tensor, points_a: Tensor, points_b: Tensor, lengths: Tensor) -> Float[Tensor, "hypothesis n"]:
    moved = transform_points(b_from_a, points_a.expand(len(b_from_a), -1, -1))
    return (moved - points_b).norm(dim=-1) / lengths


def _score(residuals: Float[Tensor, "hypothesis n"]) -> Float[Tensor, "hypothesis"]:
    return residuals.clamp(min=LEAST_RESIDUAL).log().mean(dim=-1)


def _biweight(residuals: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Tukey's weights (1 - (r / c)^2)^2 of residuals r >= 0, and 0 beyond c."""
    usual = residuals.kthvalue(max(1, int(TRUSTED_SHARE * len(residuals)))).values
    width = REJECTED_BEYOND * usual.clamp(min=LEAST_RESIDUAL)
    return (1 - (residuals / width).square()).clamp(min=0).square()
