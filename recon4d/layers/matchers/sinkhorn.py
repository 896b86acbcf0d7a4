"""Sinkhorn matching: a differentiable assignment in which target cells are shared out as well (Sarlin et al., 2020).

A target cell has one unit of probability to give, just as a query cell has one to receive; a dustbin on either side
takes what has no match. Rows and columns are normalized in turn, in the log domain (Cuturi, 2013; Peyre and Cuturi,
2019). Without iterations, this is soft matching.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recon4d.layers.matchers.assignment import Assignment, correlate, windowed_expectation


@dataclass(frozen=True)
class SinkhornMatcher:
    """Optimal transport between query and target cells with a dustbin, followed by a windowed soft argmax."""

    iterations: int = 5
    """Number of normalizations of the target cells, each followed by one of the query cells."""

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
        log_partition, target_potentials = sinkhorn(logits, dustbin_logit, self.iterations)
        position, mass, deviation = windowed_expectation(
            logits + target_potentials[..., None, :], log_partition, cell_grid, allowed
        )
        return Assignment(position, mass, deviation, log_partition, target_potentials)


def sinkhorn(
    logits: Float[Tensor, "pair cells target_cells"], dustbin_logit: Float[Tensor, ""], iterations: int
) -> tuple[Float[Tensor, "pair cells"], Float[Tensor, "pair target_cells"]]:
    """Find the log scalings of rows and columns that give the assignment its marginals.

    Each query cell and each target cell has a total of 1, the dustbin of the query cells as much as there are target
    cells, and the other dustbin as much as there are query cells. The totals of query cells hold after every iteration;
    those of target cells are approached. The logit of the two dustbins with each other is higher than that of a dustbin
    with a cell, by the log of the number of cells. This balances their totals: a cell is undecided at the logit of the
    dustbin for any number of cells, and a dustbin learned by soft matching keeps its meaning.

    Args:
        logits: Logits of all pairs of cells.
        dustbin_logit: Logit of a dustbin with a cell, a scalar.
        iterations: Number of normalizations of the target cells, each followed by one of the query cells.

    Returns:
        Log partitions of the query cells and potentials of the target cells: the log probability of a pair is logit +
        potential - log partition, and that of a query cell without a match is dustbin logit - log partition.
    """
    num_query, num_target = logits.shape[-2:]
    bins = _Dustbins(dustbin_logit, dustbin_logit + 0.5 * math.log(num_query * num_target))
    column, column_bin = torch.zeros_like(logits[..., 0, :]), torch.zeros_like(logits[..., 0, 0])
    row, row_bin = bins.normalize(logits, column, column_bin)
    for _ in range(iterations):
        column, column_bin = bins.normalize(logits.transpose(-1, -2), row, row_bin)
        row, row_bin = bins.normalize(logits, column, column_bin)
    # Only sums of a row and a column potential matter; that of the column dustbin is made zero.
    shift = column_bin[..., None]
    return -(row + shift), column - shift


@dataclass(frozen=True)
class _Dustbins:
    """Logits of the dustbins of rows and columns."""

    cell_logit: Float[Tensor, ""]
    """Logit of a dustbin with a cell."""
    corner_logit: Float[Tensor, ""]
    """Logit of the two dustbins with each other."""

    def normalize(self, logits: Tensor, column: Tensor, column_bin: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the potentials that give each row a total of 1 and the row dustbin the number of columns.

        Args:
            logits: Logits (pair, row, column).
            column: Potentials (pair, column) of the columns.
            column_bin: Potential (pair) of the column dustbin.

        Returns:
            Potentials (pair, row) of the rows, and (pair) of the row dustbin.
        """
        row = -torch.logaddexp(_log_row_sums(logits, column), (self.cell_logit + column_bin)[..., None])
        log_bin_sum = torch.logaddexp(self.cell_logit + column.logsumexp(dim=-1), self.corner_logit + column_bin)
        return row, math.log(column.shape[-1]) - log_bin_sum


def _log_row_sums(logits: Tensor, column: Tensor) -> Tensor:
    """Sum the rows (pair, row, column) after adding potentials (pair, column), in the log domain.

    The backward pass computes the large intermediate result again, so that iterations store vectors and no matrices.
    """
    if not torch.is_grad_enabled():
        return _log_row_sums_stored(logits, column)
    sums = checkpoint(_log_row_sums_stored, logits, column, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(sums, Tensor)
    return sums


def _log_row_sums_stored(logits: Tensor, column: Tensor) -> Tensor:
    return (logits + column[..., None, :]).logsumexp(dim=-1)
