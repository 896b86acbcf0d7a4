"""Which pixels and frames to take: those that a place falls into, none beside a jump in depth, of too many a few."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_RELATIVE_JUMP = 0.05
"""Pixels whose depth differs from a direct neighbor's by more than this share of the nearer one are left out.

Networks and resizing smear the edge between a near and a far surface into pixels that hang in the air between them.
The price: a surface seen at a more grazing slope than 5 % of its depth a pixel (the ground near the horizon) goes too.
"""

_GOLDEN_RATIO = (5**0.5 - 1) / 2


def is_depth_edge(
    depths: Float[Tensor, "time height width"], is_known: Bool[Tensor, "time height width"]
) -> Bool[Tensor, "time height width"]:
    """Both pixels of every known pair of direct neighbors between which the depth jumps."""
    is_edge = torch.zeros_like(is_known)
    for axis in (-2, -1):
        length = depths.shape[axis] - 1
        one, other = depths.narrow(axis, 0, length), depths.narrow(axis, 1, length)
        both_known = is_known.narrow(axis, 0, length) & is_known.narrow(axis, 1, length)
        jumps = both_known & ((one - other).abs() > MAX_RELATIVE_JUMP * torch.minimum(one, other))
        is_edge.narrow(axis, 0, length).logical_or_(jumps)
        is_edge.narrow(axis, 1, length).logical_or_(jumps)
    return is_edge


def rows_and_columns(
    pixels: Float[Tensor, "*shape 2"], size: tuple[int, int]
) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
    """Row and column of the pixel that holds each place (x, y), or of the nearest one; NaN counts as 0."""
    column, row = torch.nan_to_num(pixels).floor().long().unbind(-1)
    return row.clamp(0, size[0] - 1), column.clamp(0, size[1] - 1)


def evenly_spaced(count: int, most: int) -> Int[Tensor, " n"]:
    """At most `most` of the numbers below `count`, at even distances, the first and the last among them."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()


def thin(chosen: Bool[Tensor, "time height width"], limit: int) -> Bool[Tensor, "time height width"]:
    """At most `limit` of the chosen pixels, spread evenly over frames and pixels."""
    positions = chosen.flatten().nonzero()[:, 0]
    if len(positions) <= limit:
        return chosen
    kept = torch.zeros_like(chosen.flatten())
    kept[positions[stratified_indices(len(positions), limit, chosen.device)]] = True
    return kept.reshape(chosen.shape)


def stratified_indices(count: int, limit: int, device: torch.device | None = None) -> Int[Tensor, " n"]:
    """At most `limit` of the numbers below `count`, ascending, one from each of `limit` runs of equal length.

    The place in a run walks by the golden ratio: every n-th pixel instead would keep whole columns of a picture and
    lose others wherever n divides its width.
    """
    if count <= limit:
        return torch.arange(count, device=device)
    edges = torch.arange(limit + 1, device=device) * count // limit
    places = (torch.arange(limit, dtype=torch.float64, device=device) * _GOLDEN_RATIO).frac()
    return edges[:-1] + (places * edges.diff()).long()
