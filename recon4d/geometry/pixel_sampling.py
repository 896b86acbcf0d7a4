"""Selection of pixels and frames: pixel indices, depth edges and deterministic subsampling."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_RELATIVE_JUMP = 0.05
"""Largest depth difference between neighboring pixels that is not an edge, relative to the smaller depth. Hand-tuned.

Networks and resizing smear depth edges into pixels that float between the near and the far surface. The price of this
threshold: surfaces at grazing angles, whose depth changes by more than 5 % per pixel (the ground near the horizon), are
marked as edges too.
"""

_GOLDEN_RATIO = (5**0.5 - 1) / 2


def is_depth_edge(
    depths: Float[Tensor, "time height width"], is_known: Bool[Tensor, "time height width"]
) -> Bool[Tensor, "time height width"]:
    """Mark depth discontinuities between horizontal and vertical neighbors.

    Args:
        depths: Depth maps (z).
        is_known: Pixels with a valid depth. An unknown pixel forms no edge with its neighbors.

    Returns:
        True for both pixels of every pair of known neighbors whose relative depth difference exceeds
        `MAX_RELATIVE_JUMP`.
    """
    is_edge = torch.zeros_like(is_known)
    for axis in (-2, -1):
        length = depths.shape[axis] - 1
        one, other = depths.narrow(axis, 0, length), depths.narrow(axis, 1, length)
        both_known = is_known.narrow(axis, 0, length) & is_known.narrow(axis, 1, length)
        jumps = both_known & ((one - other).abs() > MAX_RELATIVE_JUMP * torch.minimum(one, other))
        is_edge.narrow(axis, 0, length).logical_or_(jumps)
        is_edge.narrow(axis, 1, length).logical_or_(jumps)
    return is_edge


def pixel_indices(
    pixels: Float[Tensor, "*shape 2"], size: tuple[int, int]
) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
    """Convert pixel coordinates to array indices.

    Args:
        pixels: Coordinates (x, y); the center of the first pixel is (0.5, 0.5). NaN is treated as 0.
        size: Height and width of the image.

    Returns:
        Row and column of the pixel that contains each coordinate, clamped to the image.
    """
    column, row = torch.nan_to_num(pixels).floor().long().unbind(-1)
    return row.clamp(0, size[0] - 1), column.clamp(0, size[1] - 1)


def evenly_spaced_indices(count: int, limit: int) -> Int[Tensor, " n"]:
    """Select evenly spaced indices including the first and the last.

    Args:
        count: Number of items to select from.
        limit: Largest number of indices.

    Returns:
        At most `limit` ascending indices from 0 to ``count - 1``; all of them if `count` does not exceed `limit`.
    """
    return torch.linspace(0, count - 1, min(count, limit), dtype=torch.float64).round().long()


def subsample_mask(mask: Bool[Tensor, "time height width"], limit: int) -> Bool[Tensor, "time height width"]:
    """Limit the number of selected pixels, keeping them evenly distributed over frames and pixels.

    Args:
        mask: Selected pixels.
        limit: Largest number of pixels to keep.

    Returns:
        A subset of `mask` with at most `limit` pixels; `mask` itself if it does not exceed the limit. See
        `stratified_indices`.
    """
    positions = mask.flatten().nonzero()[:, 0]
    if len(positions) <= limit:
        return mask
    kept = torch.zeros_like(mask.flatten())
    kept[positions[stratified_indices(len(positions), limit, mask.device)]] = True
    return kept.reshape(mask.shape)


def stratified_indices(count: int, limit: int, device: torch.device | None = None) -> Int[Tensor, " n"]:
    """Select one index from each of `limit` strata of equal length.

    The offset within a stratum follows the golden-ratio sequence. A constant stride would keep whole columns of an
    image and drop others whenever it divides the width.

    Args:
        count: Number of items to select from.
        limit: Largest number of indices.
        device: Device of the result; None is the default device.

    Returns:
        ``min(count, limit)`` ascending indices below `count`.
    """
    if count <= limit:
        return torch.arange(count, device=device)
    edges = torch.arange(limit + 1, device=device) * count // limit
    offsets = (torch.arange(limit, dtype=torch.float64, device=device) * _GOLDEN_RATIO).frac()
    return edges[:-1] + (offsets * edges.diff()).long()
