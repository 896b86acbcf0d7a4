"""Soft matching: a softmax over all target cells and a dustbin, independent for each query cell."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.layers.matchers.assignment import Assignment, correlate, windowed_expectation


@dataclass(frozen=True)
class SoftMatcher:
    """Softmax over all target cells and a dustbin, followed by a windowed soft argmax."""

    def __call__(
        self,
        query: Float[Tensor, "pair cells channels"],
        target: Float[Tensor, "pair target_cells channels"],
        dustbin_logit: Float[Tensor, ""],
        cell_grid: tuple[int, int],
        allowed: Bool[Tensor, "pair cells target_cells"] | None = None,
    ) -> Assignment:
        """See `Matcher`."""
        return Assignment(*soft_match(query, target, dustbin_logit, cell_grid, allowed))


def soft_match(
    query: Float[Tensor, "pair cells channels"],
    target: Float[Tensor, "pair target_cells channels"],
    dustbin_logit: Float[Tensor, ""],
    cell_grid: tuple[int, int],
    allowed: Bool[Tensor, "pair cells target_cells"] | None = None,
) -> tuple[
    Float[Tensor, "pair cells 2"], Float[Tensor, "pair cells"], Float[Tensor, "pair cells"], Float[Tensor, "pair cells"]
]:
    """Match cells by a softmax over all target cells and a dustbin, followed by a windowed soft argmax.

    Args:
        query: Features of the query cells, divided by the temperature.
        target: Unit features of the target cells.
        dustbin_logit: Logit of the dustbin, a scalar.
        cell_grid: Number of cell rows and columns.
        allowed: Pairs of cells that may match; None for all.

    Returns:
        Position (x, y) in cells, probability mass inside the window, standard deviation in cells, and log partition of
        each query cell. See `Matches`.
    """
    logits = correlate(query, target, allowed)
    log_partition = softmax_log_partition(logits, dustbin_logit)
    return *windowed_expectation(logits, log_partition, cell_grid, allowed), log_partition


def softmax_log_partition(
    logits: Float[Tensor, "pair cells target_cells"], dustbin_logit: Float[Tensor, ""]
) -> Float[Tensor, "pair cells"]:
    """Compute the log of the softmax denominator over all target cells and the dustbin.

    Args:
        logits: Logits of all pairs of cells.
        dustbin_logit: Logit of the dustbin, a scalar.

    Returns:
        Log partition of each query cell.
    """
    return torch.logaddexp(logits.logsumexp(dim=-1), dustbin_logit.expand(logits.shape[:-1]))
