"""Errors of soft matching: how likely the true match is, how likely none where there is none, and how far off it is."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.layers import CELLS_PER_PATCH_SIDE, Matches, Matching
from recon4d.losses.correspondence import TrueMatches
from recon4d.losses.errors import smooth_length
from recon4d.losses.term import Term, masked_term, replaced_where_unknown
from recon4d.records import full_precision

POSITION_SMOOTHNESS = 1e-3
"""Cells below which the error of a position becomes a parabola."""
MAX_POSITION_ERROR = 3.0
"""Cells; just beyond the window. What is farther off is the cross-entropy's to mend, and has no gradient here."""


class MatchingTerms(NamedTuple):
    """The three errors of matching, over pairs of two different frames that `Matches` calls valid."""

    cross_entropy: Term
    """Where the cell is seen: minus the log probabilities of the four cells about its true position, weighed
    bilinearly."""
    dustbin: Term
    """Where the cell is truly unseen: minus the log probability of the no-match bin."""
    position: Term
    """Where the cell is seen: distance of the expected from the true position in cells, up to `MAX_POSITION_ERROR`."""


def matching_terms(
    matches: Matches,
    cell_features: Float[Tensor, "batch time cells channels"],
    matching: Matching,
    truth: TrueMatches,
    grid: tuple[int, int],
) -> MatchingTerms:
    """Errors of `matches`, which `matching` made from `cell_features`; `grid` counts patches (rows, columns).

    `truth` is `true_matches` of the same pairs of frames.
    """
    is_pair = (matches.valid & (matches.query_frames != matches.target_frames))[..., None]
    seen, unseen = truth.has_match & is_pair, truth.has_no_match & is_pair
    on_both_axes = seen[..., None].expand_as(truth.positions)
    expected, in_cells = (
        replaced_where_unknown(positions, on_both_axes, 0.0) / matching.cell_size
        for positions in (matches.positions, truth.positions)
    )
    cell_grid = (grid[0] * CELLS_PER_PATCH_SIDE, grid[1] * CELLS_PER_PATCH_SIDE)

    correlation = _correlation_at(matches, cell_features, in_cells, cell_grid)
    scale = torch.exp(-full_precision(matching.log_temperature))
    log_partition = full_precision(matches.log_partition)
    distance = smooth_length(expected - in_cells, POSITION_SMOOTHNESS)
    return MatchingTerms(
        cross_entropy=masked_term(log_partition - scale * correlation, seen),
        dustbin=masked_term(log_partition - full_precision(matching.no_match), unseen),
        position=masked_term(distance.clamp(max=MAX_POSITION_ERROR), seen),
    )


def _correlation_at(
    matches: Matches, features: Tensor, positions: Tensor, cell_grid: tuple[int, int]
) -> Float[Tensor, "batch pair cells"]:
    """Correlation of each query cell with the four target cells about its true position, weighed bilinearly.

    A weighted mean of products is the product with the weighted mean, which takes a quarter of the memory.
    """
    batch, time, num_cells, _ = features.shape
    rows, columns = cell_grid
    flat = full_precision(features).flatten(0, 2)
    first_of_clip = time * torch.arange(batch, device=features.device)[:, None]
    first_of_target = ((matches.target_frames + first_of_clip) * num_cells)[..., None]
    # Beyond the outermost centers there is nothing to weigh against.
    x, y = (positions[..., 0] - 0.5).clamp(0, columns - 1), (positions[..., 1] - 0.5).clamp(0, rows - 1)
    left, top = x.floor(), y.floor()
    target = torch.zeros((), dtype=flat.dtype, device=flat.device)
    for column, weight_x in ((left, left + 1 - x), ((left + 1).clamp(max=columns - 1), x - left)):
        for row, weight_y in ((top, top + 1 - y), ((top + 1).clamp(max=rows - 1), y - top)):
            cell = first_of_target + (row * columns + column).long()
            # index_select's gradient is one addition; that of advanced indexing sorts.
            corner = flat.index_select(0, cell.flatten()).unflatten(0, cell.shape)
            target = target + (weight_x * weight_y)[..., None] * corner
    queries = (matches.query_frames + first_of_clip).flatten()
    query = flat.unflatten(0, (-1, num_cells)).index_select(0, queries).unflatten(0, matches.query_frames.shape)
    return (query * target).sum(dim=-1)
