"""Nearest neighbors with a mutual check: matching without training, for the features of any backbone."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.layers.matchers.assignment import Assignment, centers_of_cells, correlate, own_centers
from recon4d.layers.matchers.soft import softmax_log_partition

CELL_DEVIATION = math.sqrt(1 / 6)
"""Standard deviation of a position that is uniform in a cell, in cells (a variance of 1/12 on each axis)."""


@dataclass(frozen=True)
class NearestMatcher:
    """Center of the most similar target cell, with mass 1 if the match is mutual and 0 otherwise.

    A match is mutual if either cell is the only most similar one of the other, and it must exceed the dustbin.
    Positions and masses have no gradient; features are trained by the log partition, which is that of soft matching.
    """

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
        similarity = logits.detach()
        best, nearest = similarity.max(dim=-1)
        best_of_target, nearest_of_target = similarity.max(dim=-2)
        own = torch.arange(logits.shape[-2], device=logits.device)
        is_mutual = nearest_of_target.gather(-1, nearest) == own
        is_only_one = (similarity == best[..., None]).sum(dim=-1) == 1
        is_only_one_of_target = (similarity == best_of_target[..., None, :]).sum(dim=-2) == 1
        is_match = is_mutual & is_only_one & is_only_one_of_target.gather(-1, nearest) & (best > dustbin_logit)
        position = centers_of_cells(nearest, cell_grid).to(logits.dtype)
        if allowed is not None:
            position = torch.where(allowed.any(dim=-1)[..., None], position, own_centers(cell_grid, position))
        return Assignment(
            positions=position,
            mass=is_match.to(logits.dtype),
            standard_deviation=torch.full_like(best, CELL_DEVIATION),
            log_partition=softmax_log_partition(logits, dustbin_logit),
        )
