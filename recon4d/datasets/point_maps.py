"""True point maps from tracked vertices: scattered into the pictures that see them, and followed from anchor pixels.

The point map of a frame that follows from its depth is `scene.points` already. All points are in the scene's world,
which in training truth is the first camera's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import project, transform_points
from recon4d.records import Scene, TensorRecord, Tracks


@dataclass(frozen=True, eq=False)
class AnchorMaps(TensorRecord):
    """X^i_j: where the vertex that pixel (u, v) of anchor i sees is at the time of frame j, in the world."""

    positions: Float[Tensor, "*batch anchor time height width 3"]
    displacements: Float[Tensor, "*batch anchor time height width 3"]
    """V_j - V_i: from the vertex's place at the anchor's own time."""
    known: Bool[Tensor, "*batch anchor time height width"]


def scattered_points(
    tracks: Tracks, scene: Scene, size: tuple[int, int]
) -> tuple[Float[Tensor, "*batch time height width 3"], Bool[Tensor, "*batch time height width"]]:
    """Point maps at `size` (height, width) of the vertices visible in each frame, and where there is one.

    A vertex falls into the pixel that its projection lies in (floor); of several in one pixel the nearest to the
    camera is seen. Sparse tracks leave most pixels unknown (0).
    """
    # Every anchor's vertices alike: (*batch, time, anchor * query).
    points = tracks.points.transpose(-4, -3).flatten(-3, -2)
    is_seen = ((tracks.visibility > 0.5) & (tracks.confidence > 0)).transpose(-3, -2).flatten(-2, -1)
    cameras = scene.cameras.resized(scene.size, size)
    in_camera = transform_points(cameras.cam_from_world, points)
    depths = in_camera[..., 2]
    cells = _cells(project(in_camera, cameras.intrinsics), size)
    winners = _nearest_in_cell(cells, depths, is_seen & (depths > 0) & (cells >= 0), size[0] * size[1])
    known = winners >= 0
    return _taken(points, winners, known).unflatten(-2, size), known.unflatten(-1, size)


def anchor_maps(tracks: Tracks, size: tuple[int, int]) -> AnchorMaps:
    """The tracks as maps over the pixels of their anchors, `size` (height, width) being that of the maps they are in.

    Dense tracks fill every pixel; of several queries in one pixel the one nearest to its center counts. A vertex is
    known at j where its tracks are believed both there and at the anchor; elsewhere both maps are 0. Nothing is known
    of an anchor that was sliced away.
    """
    cells = _cells(tracks.pixels, size)
    off_center = (tracks.pixels - tracks.pixels.floor() - 0.5).square().sum(dim=-1)
    own_time = tracks.anchors.clamp(min=0)[..., None, None]
    at_anchor = tracks.confidence.take_along_dim(own_time, dim=-2)[..., 0, :] > 0
    usable = at_anchor & (tracks.anchors >= 0)[..., None] & (cells >= 0)
    winners = _nearest_in_cell(cells, off_center, usable, size[0] * size[1])

    start = tracks.points.take_along_dim(own_time[..., None], dim=-3)
    over_time = winners[..., None, :].expand(*tracks.points.shape[:-2], -1)
    known = _taken(tracks.confidence[..., None], over_time, over_time >= 0)[..., 0] > 0
    return AnchorMaps(
        positions=_taken(tracks.points, over_time, known).unflatten(-2, size),
        displacements=_taken(tracks.points - start, over_time, known).unflatten(-2, size),
        known=known.unflatten(-1, size),
    )


def _cells(pixels: Float[Tensor, "*rows n 2"], size: tuple[int, int]) -> Int[Tensor, "*rows n"]:
    """The number of the pixel, row by row, that each (x, y) lies in; -1 outside the picture."""
    height, width = size
    inside = (pixels >= 0).all(dim=-1) & (pixels[..., 0] < width) & (pixels[..., 1] < height)
    # Enormous and unknown pixels have no whole number: they are replaced before rounding.
    columns, rows = torch.where(inside[..., None], pixels, torch.zeros_like(pixels)).long().unbind(-1)
    return torch.where(inside, rows * width + columns, -1)


def _nearest_in_cell(
    cells: Int[Tensor, "*rows n"], distances: Float[Tensor, "*rows n"], usable: Bool[Tensor, "*rows n"], num_cells: int
) -> Int[Tensor, "*rows cells"]:
    """For every cell the usable candidate of the smallest distance (the first of equals), -1 where there is none."""
    order = torch.where(usable, distances, torch.inf).argsort(dim=-1, stable=True)
    # Ranks rather than distances are scattered, so that the smallest one also tells whose it is.
    ranks = torch.arange(order.shape[-1], device=order.device).expand(order.shape)
    spare = torch.where(usable, cells, num_cells).gather(-1, order)
    nobody = order.shape[-1]
    best = ranks.new_full((*order.shape[:-1], num_cells + 1), nobody).scatter_reduce(-1, spare, ranks, "amin")
    best = best[..., :num_cells]
    if not nobody:
        return best - 1
    return torch.where(best < nobody, order.gather(-1, best.clamp(max=nobody - 1)), -1)


def _taken(
    values: Float[Tensor, "*rows n c"], chosen: Int[Tensor, "*rows cells"], known: Bool[Tensor, "*rows cells"]
) -> Float[Tensor, "*rows cells c"]:
    """The chosen values; 0 where they are not known."""
    if not values.shape[-2]:
        return values.new_zeros(*chosen.shape, values.shape[-1])
    taken = values.take_along_dim(chosen.clamp(min=0)[..., None], dim=-2)
    # where(), not a product: what is unknown may be NaN.
    return torch.where(known[..., None], taken, torch.zeros_like(taken))
