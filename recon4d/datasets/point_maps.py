"""Ground-truth point maps from tracks, in the image of every frame or over the pixels of the anchor frames.

The point map that follows from the depth of a frame is `Scene.points`. All points are in the world coordinates of the
scene, which in training data are those of the first camera.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import is_in_image, pixel_indices, project, transform_points
from recon4d.records import Scene, TensorRecord, Tracks


@dataclass(frozen=True, eq=False)
class AnchorMaps(TensorRecord):
    """World points of the pixels of each anchor frame at the time of each frame."""

    positions: Float[Tensor, "*batch anchor time height width 3"]
    """Position at the time of frame j of the surface point that anchor i sees in pixel (u, v); 0 where unknown."""
    displacements: Float[Tensor, "*batch anchor time height width 3"]
    """Difference between the position and that at the time of the anchor; 0 where unknown."""
    is_known: Bool[Tensor, "*batch anchor time height width"]
    """Whether the point is known at both times."""


def rasterize_tracks(
    tracks: Tracks, scene: Scene, size: tuple[int, int]
) -> tuple[Float[Tensor, "*batch time height width 3"], Bool[Tensor, "*batch time height width"]]:
    """Rasterize the visible track points of every frame into point maps.

    A point belongs to the pixel that contains its projection. If several points share a pixel, the one closest to the
    camera is used. Sparse tracks leave most pixels unknown.

    Args:
        tracks: Tracks in the world coordinates of the scene. The points of all anchors are used.
        scene: Scene whose cameras view the points.
        size: Height and width of the maps.

    Returns:
        Point maps (*batch, time, height, width, 3), 0 where unknown, and masks of the known pixels.
    """
    # All anchors together: (*batch, time, anchor * query).
    points = tracks.points.transpose(-4, -3).flatten(-3, -2)
    is_visible = ((tracks.visibility > 0.5) & (tracks.confidence > 0)).transpose(-3, -2).flatten(-2, -1)
    cameras = scene.cameras.resized(scene.size, size)
    in_camera = transform_points(cameras.cam_from_world, points)
    depths = in_camera[..., 2]
    cells = _pixel_index(project(in_camera, cameras.intrinsics), size)
    nearest = _argmin_per_cell(cells, depths, is_visible & (depths > 0) & (cells >= 0), size[0] * size[1])
    is_known = nearest >= 0
    return _gather_or_zero(points, nearest, is_known).unflatten(-2, size), is_known.unflatten(-1, size)


def anchor_maps(tracks: Tracks, size: tuple[int, int]) -> AnchorMaps:
    """Arrange tracks as maps over the pixels of their anchor frames.

    Dense tracks fill every pixel. If several queries share a pixel, the one closest to the center of the pixel is used.
    A point is known at a time if its track has a confidence above 0 there and at the anchor. Queries of an anchor that
    was sliced away are unknown.

    Args:
        tracks: Tracks of shape (*batch, anchor, time, query).
        size: Height and width of the images to which the query pixels refer.

    Returns:
        Maps of positions and displacements.
    """
    cells = _pixel_index(tracks.pixels, size)
    off_center = (tracks.pixels - tracks.pixels.floor() - 0.5).square().sum(dim=-1)
    anchor_time = tracks.anchors.clamp(min=0)[..., None, None]
    known_at_anchor = tracks.confidence.take_along_dim(anchor_time, dim=-2)[..., 0, :] > 0
    is_query = known_at_anchor & (tracks.anchors >= 0)[..., None] & (cells >= 0)
    nearest = _argmin_per_cell(cells, off_center, is_query, size[0] * size[1])

    start = tracks.points.take_along_dim(anchor_time[..., None], dim=-3)
    nearest_over_time = nearest[..., None, :].expand(*tracks.points.shape[:-2], -1)
    is_known = _gather_or_zero(tracks.confidence[..., None], nearest_over_time, nearest_over_time >= 0)[..., 0] > 0
    return AnchorMaps(
        positions=_gather_or_zero(tracks.points, nearest_over_time, is_known).unflatten(-2, size),
        displacements=_gather_or_zero(tracks.points - start, nearest_over_time, is_known).unflatten(-2, size),
        is_known=is_known.unflatten(-1, size),
    )


def _pixel_index(pixels: Float[Tensor, "*rows n 2"], size: tuple[int, int]) -> Int[Tensor, "*rows n"]:
    """Compute the row-major index of the pixel that contains each (x, y); -1 outside the image."""
    rows, columns = pixel_indices(pixels, size)
    return torch.where(is_in_image(pixels, size), rows * size[1] + columns, -1)


def _argmin_per_cell(
    cells: Int[Tensor, "*rows n"], distances: Float[Tensor, "*rows n"], mask: Bool[Tensor, "*rows n"], num_cells: int
) -> Int[Tensor, "*rows cells"]:
    """Find the masked item of smallest distance in every cell; the first of equals, -1 for an empty cell."""
    order = torch.where(mask, distances, torch.inf).argsort(dim=-1, stable=True)
    # Ranks are scattered instead of distances, because the smallest rank also identifies the item.
    ranks = torch.arange(order.shape[-1], device=order.device).expand(order.shape)
    # Items outside the mask go to an extra cell.
    cells_in_order = torch.where(mask, cells, num_cells).gather(-1, order)
    num_items = order.shape[-1]
    best = ranks.new_full((*order.shape[:-1], num_cells + 1), num_items)
    best = best.scatter_reduce(-1, cells_in_order, ranks, "amin")[..., :num_cells]
    if not num_items:
        return best - 1
    return torch.where(best < num_items, order.gather(-1, best.clamp(max=num_items - 1)), -1)


def _gather_or_zero(
    values: Float[Tensor, "*rows n c"], indices: Int[Tensor, "*rows cells"], mask: Bool[Tensor, "*rows cells"]
) -> Float[Tensor, "*rows cells c"]:
    """Gather values by index; 0 outside the mask."""
    if not values.shape[-2]:
        return values.new_zeros(*indices.shape, values.shape[-1])
    gathered = values.take_along_dim(indices.clamp(min=0)[..., None], dim=-2)
    # torch.where instead of a product, because unknown values may be NaN.
    return torch.where(mask[..., None], gathered, torch.zeros_like(gathered))
