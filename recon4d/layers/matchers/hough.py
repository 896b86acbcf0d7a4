"""Hough voting of displacements: neighboring cells confirm matches that are displaced alike (Min et al., 2019).

Every query cell votes for displacements with its soft matches, and for the dustbin with the rest. The votes of the
cells around a query cell are averaged at equal displacement, with a tolerance of a cell, and multiply its own
probabilities. With a radius as large as the frame, all cells vote for one common displacement.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.layers.matchers.assignment import Assignment, correlate, windowed_expectation
from recon4d.layers.matchers.soft import softmax_log_partition

MIN_VOTES = 1e-6
"""Added to the share of votes before its logarithm, which limits the effect of a displacement without votes."""
TOLERANCE_WEIGHTS = (0.5, 1.0, 0.5)
"""Weight of votes for displacements one cell less, equal and one cell more, on each axis. Hand-tuned."""


@dataclass(frozen=True)
class HoughMatcher:
    """Soft matches weighted by the votes of neighboring cells, followed by a windowed soft argmax.

    The log partition, which trains the features, is that of the votes: of soft matching.
    """

    radius: int = 3
    """Largest distance of the voting cells from the query cell on each axis, in cells."""

    def __call__(
        self,
        query: Float[Tensor, "pair cells channels"],
        target: Float[Tensor, "pair target_cells channels"],
        dustbin_logit: Float[Tensor, ""],
        cell_grid: tuple[int, int],
        allowed: Bool[Tensor, "pair cells target_cells"] | None = None,
    ) -> Assignment:
        """See `Matcher`."""
        logits = correlate(query, target, allowed)
        log_partition = softmax_log_partition(logits, dustbin_logit)
        log_probability = logits - log_partition[..., None]
        votes = displacement_votes(log_probability.exp(), cell_grid, self.radius)
        scores = log_probability + (votes + MIN_VOTES).log()

        log_dustbin = dustbin_logit - log_partition
        dustbin_scores = log_dustbin + (_dustbin_votes(log_dustbin.exp(), cell_grid, self.radius) + MIN_VOTES).log()
        score_partition = torch.logaddexp(scores.logsumexp(dim=-1), dustbin_scores)
        position, mass, deviation = windowed_expectation(scores, score_partition, cell_grid, allowed)
        return Assignment(position, mass, deviation, log_partition)


def displacement_votes(
    probability: Float[Tensor, "pair cells target_cells"], cell_grid: tuple[int, int], radius: int
) -> Float[Tensor, "pair cells target_cells"]:
    """Average the probabilities that the cells around each query cell give to the same displacement.

    Args:
        probability: Probabilities of all pairs of cells of two frames of the same size.
        cell_grid: Number of cell rows and columns.
        radius: Largest distance of the voting cells on each axis, in cells.

    Returns:
        Share of votes for each pair of cells, in [0, 1]. Votes of neighbors whose displaced position is outside of the
        target frame do not count.
    """
    rows, columns = cell_grid
    votes = probability.unflatten(-2, (rows, columns)).unflatten(-1, (rows, columns))
    for axis in (-2, -1):
        votes = _with_tolerance(votes, axis)
    votes = _mean_along_diagonal(votes, (1, 3), radius)
    votes = _mean_along_diagonal(votes, (2, 4), radius)
    return votes.flatten(-2).flatten(-3, -2)


def _with_tolerance(votes: Tensor, axis: int) -> Tensor:
    """Add the weighted votes for displacements of one cell less and more on an axis."""
    before, own, after = TOLERANCE_WEIGHTS
    padded = _pad(votes, axis, 1)
    size = votes.shape[axis]
    return before * padded.narrow(axis, 0, size) + own * votes + after * padded.narrow(axis, 2, size)


def _mean_along_diagonal(votes: Tensor, axes: tuple[int, int], radius: int) -> Tensor:
    """Average over equal shifts of two axes of the same size; entries outside of the volume do not count."""
    query_axis, target_axis = axes
    size = votes.shape[query_axis]
    radius = min(radius, size - 1)
    padded = _pad(_pad(votes, query_axis, radius), target_axis, radius)
    total = sum(
        padded.narrow(query_axis, start, size).narrow(target_axis, start, size) for start in range(2 * radius + 1)
    )
    position = torch.arange(size, device=votes.device)
    first, last = torch.minimum(position[:, None], position), torch.maximum(position[:, None], position)
    count = 1 + first.clamp(max=radius) + (size - 1 - last).clamp(max=radius)
    shape = [1] * votes.ndim
    shape[query_axis] = shape[target_axis] = size
    return total / count.to(votes.dtype).reshape(shape)


def _dustbin_votes(probability: Tensor, cell_grid: tuple[int, int], radius: int) -> Tensor:
    """Average the probability (pair, cell) of the dustbin over the cells around each query cell."""
    maps = probability.unflatten(-1, cell_grid)[:, None]
    mean = F.avg_pool2d(maps, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
    return mean.flatten(1)


def _pad(values: Tensor, axis: int, amount: int) -> Tensor:
    """Append zeros on both sides of an axis."""
    after = values.ndim - 1 - axis % values.ndim
    return F.pad(values, [0, 0] * after + [amount, amount])
