"""Losses of matching: likelihood of the true match or of the dustbin, and position error."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.layers import CELLS_PER_PATCH_SIDE, Matches, Matching
from recon4d.losses.correspondence import TrueMatches
from recon4d.losses.errors import smooth_length
from recon4d.losses.term import Term, fill_unknown, masked_term
from recon4d.records import full_precision

POSITION_SMOOTHNESS = 1e-3
"""Position errors below this are penalized quadratically, in cells. Hand-tuned."""
MAX_POSITION_ERROR = 3.0
"""Upper bound of a position error in cells, just beyond the matching window. Larger errors have no gradient.

The cross-entropy corrects them. Hand-tuned.
"""


class MatchingTerms(NamedTuple):
    """The three losses of matching, over the valid pairs of two different frames."""

    cross_entropy: Term
    """For matched cells: negative log probability of the four cells around the true position, weighted bilinearly."""
    dustbin: Term
    """For unmatched cells: negative log probability of the dustbin."""
    position: Term
    """For matched cells: distance of the expected from the true position in cells, at most `MAX_POSITION_ERROR`."""


def matching_terms(
    matches: Matches,
    cell_features: Float[Tensor, "batch time cells channels"],
    matching: Matching,
    truth: TrueMatches,
    grid: tuple[int, int],
    dynamic_weight: float = 1.0,
) -> MatchingTerms:
    """Compare matches with the ground truth.

    Args:
        matches: Predicted matches.
        cell_features: Unit features that the matches were computed from.
        matching: The layer that computed the matches.
        truth: True matches of the same pairs of frames, from `true_matches`.
        grid: Number of rows and columns of patches.
        dynamic_weight: Weight of matched cells that move; all others weigh 1.

    Returns:
        The three terms of matching.
    """
    is_pair = (matches.valid & (matches.query_frames != matches.target_frames))[..., None]
    matched, unmatched = truth.has_match & is_pair, truth.is_unmatched & is_pair
    on_both_axes = matched[..., None].expand_as(truth.positions)
    expected, in_cells = (
        fill_unknown(positions, on_both_axes, 0.0) / matching.cell_size
        for positions in (matches.positions, truth.positions)
    )
    cell_grid = (grid[0] * CELLS_PER_PATCH_SIDE, grid[1] * CELLS_PER_PATCH_SIDE)

    scale = torch.exp(-full_precision(matching.log_temperature))
    logit = scale * _correlation_at(matches, cell_features, in_cells, cell_grid)
    if matches.target_potentials is not None:
        logit = logit + _potential_at(matches.target_potentials, in_cells, cell_grid)
    log_partition = full_precision(matches.log_partition)
    cross_entropy = log_partition - logit
    if matching.epipolar_width is not None:
        # An excluded true match, such as that of a moving point, could gain probability without end.
        cross_entropy = cross_entropy.clamp(min=0)
    distance = smooth_length(expected - in_cells, POSITION_SMOOTHNESS)
    weights = matched * torch.where(truth.is_dynamic, dynamic_weight, 1.0).to(distance.dtype)
    return MatchingTerms(
        cross_entropy=masked_term(cross_entropy, weights),
        dustbin=masked_term(log_partition - full_precision(matching.no_match), unmatched),
        position=masked_term(distance.clamp(max=MAX_POSITION_ERROR), weights),
    )


def _correlation_at(
    matches: Matches, features: Tensor, positions: Tensor, cell_grid: tuple[int, int]
) -> Float[Tensor, "batch pair cells"]:
    """Correlate each query cell with the four target cells around its true position, weighted bilinearly.

    The weighted mean of the products is the product with the weighted mean, which needs a quarter of the memory.
    """
    batch, time, num_cells, _ = features.shape
    flat = full_precision(features).flatten(0, 2)
    first_of_clip = time * torch.arange(batch, device=features.device)[:, None]
    first_of_target = ((matches.target_frames + first_of_clip) * num_cells)[..., None]
    target = torch.zeros((), dtype=flat.dtype, device=flat.device)
    for cell_of_frame, weight in _surrounding_cells(positions, cell_grid):
        cell = first_of_target + cell_of_frame
        # The gradient of index_select is a plain addition; that of advanced indexing sorts first.
        corner = flat.index_select(0, cell.flatten()).unflatten(0, cell.shape)
        target = target + weight[..., None] * corner
    queries = (matches.query_frames + first_of_clip).flatten()
    query = flat.unflatten(0, (-1, num_cells)).index_select(0, queries).unflatten(0, matches.query_frames.shape)
    return (query * target).sum(dim=-1)


def _potential_at(
    potentials: Tensor, positions: Tensor, cell_grid: tuple[int, int]
) -> Float[Tensor, "batch pair cells"]:
    """Average the potentials of the four target cells around the true position, weighted bilinearly."""
    corners = _surrounding_cells(positions, cell_grid)
    return torch.stack([weight * potentials.gather(-1, cell) for cell, weight in corners]).sum(dim=0)


def _surrounding_cells(positions: Tensor, cell_grid: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the index and the bilinear weight of each of the four cells around positions (..., 2) in cells.

    Positions outside of the outermost centers use the border cells.
    """
    rows, columns = cell_grid
    x, y = (positions[..., 0] - 0.5).clamp(0, columns - 1), (positions[..., 1] - 0.5).clamp(0, rows - 1)
    left, top = x.floor(), y.floor()
    for column, weight_x in ((left, left + 1 - x), ((left + 1).clamp(max=columns - 1), x - left)):
        for row, weight_y in ((top, top + 1 - y), ((top + 1).clamp(max=rows - 1), y - top)):
            yield (row * columns + column).long(), weight_x * weight_y
