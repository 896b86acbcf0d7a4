"""Ground-truth correspondences of matching cells: the position of a cell in another frame, or that it has none.

Anchor frames use the true tracks, dense or sparse, so dynamic surfaces are supported. In other frames only pixels known
to be static have correspondences, by their world points. Lengths are in units of the scene (see `normalized`).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import invert, project, transform_points
from recon4d.layers import CELLS_PER_PATCH_SIDE, cell_centers
from recon4d.records import DYNAMIC_THRESHOLD, Scene, TensorRecord, Tracks, full_precision

OCCLUSION_TOLERANCE = (0.015, 0.005)
"""A point behind the true surface by less than a fraction of its depth plus a length is visible: (fraction, length).

The length is in units of the scene. Same values as for synthetic ground truth. Hand-tuned.
"""
MAX_TRACK_OFFSET = 0.3
"""Largest offset in x and y of a track from the center of its cell, as a fraction of the cell's side. Hand-tuned."""


@dataclass(frozen=True, eq=False)
class TrueMatches(TensorRecord):
    """True position of each cell of the query frame in the target frame, for pairs of frames.

    Cells with neither a match nor a proof of absence are unknown and should be ignored by losses.
    """

    positions: Float[Tensor, "*batch pair cell 2"]
    """Pixel (x, y) in the target frame; 0 for cells without a match."""
    has_match: Bool[Tensor, "*batch pair cell"]
    """True for cells that are in view and not occluded in the target frame."""
    is_unmatched: Bool[Tensor, "*batch pair cell"]
    """True for cells that are occluded, outside of the image or behind the camera in the target frame."""
    is_dynamic: Bool[Tensor, "*batch pair cell"]
    """True for cells whose center moves in the world."""


@dataclass(frozen=True)
class _Cells:
    """Regular grid of matching cells, in row-major order."""

    centers: Float[Tensor, "cell 2"]
    """Pixel (x, y) of the center of each cell."""
    side: float
    """Side of a cell in pixels."""
    grid: tuple[int, int]
    """Number of rows and columns."""


@dataclass(frozen=True)
class _CellPoints:
    """The surface point of each cell of the query frame, at the time of the target frame."""

    points: Float[Tensor, "batch pair cell 3"]
    """World positions."""
    pixels: Float[Tensor, "batch pair cell 2"]
    """Pixel of each point in the query frame, close to the center of its cell."""
    valid: Bool[Tensor, "batch pair cell"]
    """True where the position is known."""
    visibility: Bool[Tensor, "batch pair cell"]
    """Visibility in the target frame according to tracks; False for points that do not come from tracks."""


@torch.no_grad()
def true_matches(
    truth: Scene,
    query_frames: Int[Tensor, "batch pair"],
    target_frames: Int[Tensor, "batch pair"],
    cell_size: float,
) -> TrueMatches:
    """Compute the true matches of square cells for pairs of frames.

    If the query frame is an anchor, cells with a track near their center (`MAX_TRACK_OFFSET`) use that track and its
    visibility. The other cells use the world point at their center if `truth.dynamic` marks it as static, and a depth
    test against the true depth of the target frame.

    Args:
        truth: Batch of true scenes, with or without tracks.
        query_frames: Index of the query frame of each pair.
        target_frames: Index of the target frame of each pair.
        cell_size: Side of a cell in pixels; maps must be a whole number of patches wide and high.

    Returns:
        True matches of all cells in row-major order, without gradient.
    """
    height, width = truth.size
    cells = _make_cells(truth, cell_size)
    tracks = truth.tracks
    with torch.autocast(truth.depths.device.type, enabled=False):
        static = _static_points(truth, query_frames, cells)
        if tracks is None or tracks.pixels.numel() == 0:
            tracked = replace(static, valid=torch.zeros_like(static.valid))
        else:
            tracked = _tracked_points(tracks, query_frames, target_frames, cells)
        points = torch.where(tracked.valid[..., None], tracked.points, static.points)
        pixels, depths, has_camera = _project_to_targets(truth, points, target_frames)

    by_track = tracked.valid & has_camera
    by_depth = static.valid & has_camera & ~by_track
    inside = (depths > 0) & (pixels > 0).all(dim=-1) & (pixels[..., 0] < width) & (pixels[..., 1] < height)
    in_front, is_measured = _depth_test(truth, pixels, depths, target_frames)
    has_match = inside & torch.where(by_track, tracked.visibility, by_depth & in_front)
    is_unmatched = (by_track & ~tracked.visibility) | (by_depth & (~inside | (~in_front & is_measured)))

    # The point of a cell is a little off its center; the center is assumed to move by the same displacement.
    offset = cells.centers - torch.where(tracked.valid[..., None], tracked.pixels, static.pixels)
    positions = torch.where(has_match[..., None], pixels + offset, torch.zeros_like(pixels))
    return TrueMatches(positions, has_match, is_unmatched, _is_dynamic(truth, query_frames, cells))


def _make_cells(truth: Scene, cell_size: float) -> _Cells:
    """Build the grid of cells that covers the maps of a scene."""
    side = CELLS_PER_PATCH_SIDE * cell_size
    patch_grid = (round(truth.size[0] / side), round(truth.size[1] / side))
    assert (patch_grid[0] * side, patch_grid[1] * side) == truth.size, "map sizes must be multiples of the patch size"
    centers = cell_centers(patch_grid, cell_size, full_precision(truth.depths))
    return _Cells(centers, cell_size, (patch_grid[0] * CELLS_PER_PATCH_SIDE, patch_grid[1] * CELLS_PER_PATCH_SIDE))


def _is_dynamic(truth: Scene, query_frames: Tensor, cells: _Cells) -> Tensor:
    """Look up whether the centers of the query frame's cells move; false where it is unknown."""
    column, row = cells.centers.floor().long().unbind(-1)
    batch = torch.arange(len(query_frames), device=query_frames.device)[:, None]
    return truth.is_dynamic[batch, query_frames][..., row, column]


def _static_points(truth: Scene, query_frames: Tensor, cells: _Cells) -> _CellPoints:
    """Look up the world points at the centers of the query frame's cells; valid where the surface is static."""
    middle = cells.centers.floor()
    column, row = middle.long().unbind(-1)
    pixel = row * truth.size[1] + column
    batch = torch.arange(len(query_frames), device=query_frames.device)[:, None]
    points = full_precision(truth.points).flatten(2, 3)[:, :, pixel][batch, query_frames]
    confidence = truth.point_confidence.flatten(2)[:, :, pixel][batch, query_frames]
    # An unknown dynamic probability (NaN) compares as false.
    is_static = truth.dynamic.flatten(2)[:, :, pixel][batch, query_frames] <= DYNAMIC_THRESHOLD
    known = is_static & (confidence > 0)
    return _CellPoints(points, (middle + 0.5).expand(*known.shape, 2), known, torch.zeros_like(known))


def _tracked_points(tracks: Tracks, query_frames: Tensor, target_frames: Tensor, cells: _Cells) -> _CellPoints:
    """Look up the tracks nearest to the centers of cells; valid for known tracks of anchor frames."""
    query, is_near = _nearest_queries(tracks, cells)
    points = torch.take_along_dim(full_precision(tracks.points), query[:, :, None, :, None], dim=3)
    pixels = torch.take_along_dim(full_precision(tracks.pixels), query[..., None], dim=2)
    confidence, visibility = (
        torch.take_along_dim(values, query[:, :, None, :], dim=3) for values in (tracks.confidence, tracks.visibility)
    )
    is_anchor = query_frames[..., None] == tracks.anchors[:, None, :]
    batch = torch.arange(len(query_frames), device=query_frames.device)[:, None]
    anchor = is_anchor.int().argmax(dim=-1)
    known = is_anchor.any(dim=-1)[..., None] & is_near[batch, anchor] & (confidence[batch, anchor, target_frames] > 0)
    return _CellPoints(
        points=points[batch, anchor, target_frames],
        pixels=pixels[batch, anchor],
        valid=known,
        visibility=visibility[batch, anchor, target_frames] > 0.5,
    )


def _nearest_queries(
    tracks: Tracks, cells: _Cells
) -> tuple[Int[Tensor, "batch anchor cell"], Bool[Tensor, "batch anchor cell"]]:
    """Find the known query nearest to the center of each cell and whether it is close enough; the last one of ties."""
    pixels = full_precision(tracks.pixels)
    is_known = (tracks.confidence > 0).any(dim=2) & torch.isfinite(pixels).all(dim=-1)
    # Unknown queries go to the corner of the first cell, which is too far from its center.
    pixels = torch.where(is_known[..., None], pixels, torch.zeros_like(pixels))
    column, row = (pixels / cells.side).floor().long().unbind(-1)
    cell = row.clamp(0, cells.grid[0] - 1) * cells.grid[1] + column.clamp(0, cells.grid[1] - 1)
    distance = (pixels - cells.centers[cell]).abs().amax(dim=-1)

    shape = (*cell.shape[:2], len(cells.centers))
    nearest = distance.new_full(shape, torch.inf).scatter_reduce(2, cell, distance, "amin")
    is_nearest = is_known & (distance == nearest.gather(2, cell))
    indices = torch.arange(cell.shape[2], device=cell.device) * is_nearest
    query = cell.new_zeros(shape).scatter_reduce(2, cell, indices, "amax")
    return query, nearest <= MAX_TRACK_OFFSET * cells.side


def _project_to_targets(truth: Scene, points: Tensor, target_frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project points to the target frames; return pixels, depths, and whether the camera of the target is known."""
    batch = torch.arange(len(target_frames), device=target_frames.device)[:, None]
    world_from_cam = full_precision(truth.cameras.world_from_cam)[batch, target_frames]
    intrinsics = full_precision(truth.cameras.intrinsics)[batch, target_frames]
    in_camera = transform_points(invert(world_from_cam), points)
    is_known = torch.isfinite(torch.cat([world_from_cam.flatten(-2), intrinsics.flatten(-2)], dim=-1)).all(dim=-1)
    return project(in_camera, intrinsics), in_camera[..., 2], is_known[..., None]


def _depth_test(
    truth: Scene, pixels: Tensor, depths: Tensor, target_frames: Tensor
) -> tuple[Bool[Tensor, "batch pair cell"], Bool[Tensor, "batch pair cell"]]:
    """Test whether points are at or in front of the target's true surface, and whether its depth is known.

    The depth of the surface is the farthest of the four surrounding pixels, because at an edge the point may belong to
    either side.
    """
    height, width = truth.size
    pixels = torch.where(torch.isfinite(pixels), pixels, torch.zeros_like(pixels))
    column = (pixels[..., 0] - 0.5).floor().clamp(0, width - 2).long()
    row = (pixels[..., 1] - 0.5).floor().clamp(0, height - 2).long()
    corner = (target_frames[..., None] * height + row) * width + column
    around = torch.stack([corner, corner + 1, corner + width, corner + width + 1], dim=-1).flatten(1)
    true_depths = torch.where(truth.depth_confidence > 0, full_precision(truth.depths), -torch.inf).flatten(1)
    around = true_depths.gather(1, around).unflatten(1, (*corner.shape[1:], 4))
    share, length = OCCLUSION_TOLERANCE
    return depths < around.amax(dim=-1) * (1 + share) + length, (around > -torch.inf).all(dim=-1)
