"""Where the surface under every matching cell of one frame is truly seen in another, and where it is truly not.

Moving surfaces are followed by the true tracks of their anchor, one for every pixel or fewer; elsewhere only what is
known to stand still is carried over by its world point. What nobody can tell is neither seen nor unseen. Lengths are in
units of the scene (`normalization.normalized`).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import invert, project, transform_points
from recon4d.layers import CELLS_PER_PATCH_SIDE, cell_centers
from recon4d.records import Scene, TensorRecord, Tracks, full_precision

SEEN_TOLERANCE = (0.015, 0.005)
"""A point counts as seen up to this share of the true depth map's depth, and this length, behind it."""
REACH = 0.3
"""A track speaks for a cell whose center is up to this share of the cell's side away in x and in y."""


@dataclass(frozen=True, eq=False)
class TrueMatches(TensorRecord):
    """For `pair` pairs of frames, where each cell of the query frame truly is in the target frame.

    Cells that are neither `seen` nor `unseen` are not known: nothing should be asked of them.
    """

    positions: Float[Tensor, "*batch pair cell 2"]
    """Pixel (x, y) in the target frame; 0 where not seen."""
    has_match: Bool[Tensor, "*batch pair cell"]
    """Seen in the target's picture, and not behind something."""
    has_no_match: Bool[Tensor, "*batch pair cell"]
    """Hidden, out of the picture or behind the camera."""


@dataclass(frozen=True)
class _Cells:
    """The cells of a picture, row by row."""

    centers: Float[Tensor, "cell 2"]
    side: float
    grid: tuple[int, int]
    """Rows and columns."""


@dataclass(frozen=True)
class _Followed:
    """What stands for the cells of each pair's query frame at the time of the target."""

    points: Float[Tensor, "batch pair cell 3"]
    """World points."""
    pixels: Float[Tensor, "batch pair cell 2"]
    """Where each was seen in the query frame: near the center of its cell."""
    known: Bool[Tensor, "batch pair cell"]
    visible: Bool[Tensor, "batch pair cell"]
    """What tracks say; False where there are none."""


@torch.no_grad()
def true_matches(
    truth: Scene,
    query_frames: Int[Tensor, "batch pair"],
    target_frames: Int[Tensor, "batch pair"],
    cell_size: float,
) -> TrueMatches:
    """The true matches of cells `cell_size` pixels wide, row by row, for pairs of frames of a batch of true scenes.

    Of a pair whose query is an anchor, cells with a track near their center (`REACH`) are followed, and the tracks say
    what is visible. Other cells are followed where `truth.moving` says that they stand still, and are hidden where the
    target's true depth is nearer.
    """
    height, width = truth.size
    cells = _cells_of(truth, cell_size)
    tracks = truth.tracks
    with torch.autocast(truth.depths.device.type, enabled=False):
        still = _standing_still(truth, query_frames, cells)
        if tracks is None or tracks.pixels.numel() == 0:
            tracked = replace(still, known=torch.zeros_like(still.known))
        else:
            tracked = _tracked(tracks, query_frames, target_frames, cells)
        points = torch.where(tracked.known[..., None], tracked.points, still.points)
        at_pixels, depths, has_camera = _seen_from(truth, points, target_frames)

    by_track = tracked.known & has_camera
    by_depth = still.known & has_camera & ~by_track
    inside = (depths > 0) & (at_pixels > 0).all(dim=-1) & (at_pixels[..., 0] < width) & (at_pixels[..., 1] < height)
    in_front, is_measured = _in_front(truth, at_pixels, depths, target_frames)
    seen = inside & torch.where(by_track, tracked.visible, by_depth & in_front)
    unseen = (by_track & ~tracked.visible) | (by_depth & (~inside | (~in_front & is_measured)))

    # What stands for a cell lies a little beside its center: the surroundings move along.
    beside = cells.centers - torch.where(tracked.known[..., None], tracked.pixels, still.pixels)
    positions = torch.where(seen[..., None], at_pixels + beside, torch.zeros_like(at_pixels))
    return TrueMatches(positions, seen, unseen)


def _cells_of(truth: Scene, cell_size: float) -> _Cells:
    side = CELLS_PER_PATCH_SIDE * cell_size
    patches = (round(truth.size[0] / side), round(truth.size[1] / side))
    assert (patches[0] * side, patches[1] * side) == truth.size, "maps must be whole patches wide and high"
    centers = cell_centers(patches, cell_size, full_precision(truth.depths))
    return _Cells(centers, cell_size, (patches[0] * CELLS_PER_PATCH_SIDE, patches[1] * CELLS_PER_PATCH_SIDE))


def _standing_still(truth: Scene, query_frames: Tensor, cells: _Cells) -> _Followed:
    """The query frames' own points at the cells' central pixels, where they are known to stand still."""
    middle = cells.centers.floor()
    column, row = middle.long().unbind(-1)
    pixel = row * truth.size[1] + column
    batch = torch.arange(len(query_frames), device=query_frames.device)[:, None]
    points = full_precision(truth.points).flatten(2, 3)[:, :, pixel][batch, query_frames]
    confidence = truth.point_confidence.flatten(2)[:, :, pixel][batch, query_frames]
    # What may move (NaN) compares as false.
    stands = truth.dynamic.flatten(2)[:, :, pixel][batch, query_frames] <= 0.5
    known = stands & (confidence > 0)
    return _Followed(points, (middle + 0.5).expand(*known.shape, 2), known, torch.zeros_like(known))


def _tracked(tracks: Tracks, query_frames: Tensor, target_frames: Tensor, cells: _Cells) -> _Followed:
    """The tracks nearest to the cells' centers, of query frames that are anchors."""
    query, is_near = _nearest_queries(tracks, cells)
    points = torch.take_along_dim(full_precision(tracks.points), query[:, :, None, :, None], dim=3)
    pixels = torch.take_along_dim(full_precision(tracks.pixels), query[..., None], dim=2)
    confidence, visible = (
        torch.take_along_dim(values, query[:, :, None, :], dim=3) for values in (tracks.confidence, tracks.visibility)
    )
    is_anchor = query_frames[..., None] == tracks.anchors[:, None, :]
    batch = torch.arange(len(query_frames), device=query_frames.device)[:, None]
    anchor = is_anchor.int().argmax(dim=-1)
    known = is_anchor.any(dim=-1)[..., None] & is_near[batch, anchor] & (confidence[batch, anchor, target_frames] > 0)
    return _Followed(
        points=points[batch, anchor, target_frames],
        pixels=pixels[batch, anchor],
        known=known,
        visible=visible[batch, anchor, target_frames] > 0.5,
    )


def _nearest_queries(
    tracks: Tracks, cells: _Cells
) -> tuple[Int[Tensor, "batch anchor cell"], Bool[Tensor, "batch anchor cell"]]:
    """The believed query nearest to each cell's center, and whether it is within reach; the last of equals."""
    pixels = full_precision(tracks.pixels)
    believed = (tracks.confidence > 0).any(dim=2) & torch.isfinite(pixels).all(dim=-1)
    # At the corner of the first cell no query is within reach of a center.
    pixels = torch.where(believed[..., None], pixels, torch.zeros_like(pixels))
    column, row = (pixels / cells.side).floor().long().unbind(-1)
    cell = row.clamp(0, cells.grid[0] - 1) * cells.grid[1] + column.clamp(0, cells.grid[1] - 1)
    away = (pixels - cells.centers[cell]).abs().amax(dim=-1)

    shape = (*cell.shape[:2], len(cells.centers))
    nearest = away.new_full(shape, torch.inf).scatter_reduce(2, cell, away, "amin")
    is_nearest = believed & (away == nearest.gather(2, cell))
    numbers = torch.arange(cell.shape[2], device=cell.device) * is_nearest
    query = cell.new_zeros(shape).scatter_reduce(2, cell, numbers, "amax")
    return query, nearest <= REACH * cells.side


def _seen_from(truth: Scene, points: Tensor, target_frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels and depths of points in each target's picture, and whether its camera is known."""
    batch = torch.arange(len(target_frames), device=target_frames.device)[:, None]
    world_from_cam = full_precision(truth.cameras.world_from_cam)[batch, target_frames]
    intrinsics = full_precision(truth.cameras.intrinsics)[batch, target_frames]
    in_camera = transform_points(invert(world_from_cam), points)
    is_known = torch.isfinite(torch.cat([world_from_cam.flatten(-2), intrinsics.flatten(-2)], dim=-1)).all(dim=-1)
    return project(in_camera, intrinsics), in_camera[..., 2], is_known[..., None]


def _in_front(
    truth: Scene, at_pixels: Tensor, depths: Tensor, target_frames: Tensor
) -> tuple[Bool[Tensor, "batch pair cell"], Bool[Tensor, "batch pair cell"]]:
    """Whether points lie at or before the target's true surface, and whether that is measured all around them.

    The farthest of the four pixels around decides: at an edge the point may belong to either side.
    """
    height, width = truth.size
    at_pixels = torch.where(torch.isfinite(at_pixels), at_pixels, torch.zeros_like(at_pixels))
    column = (at_pixels[..., 0] - 0.5).floor().clamp(0, width - 2).long()
    row = (at_pixels[..., 1] - 0.5).floor().clamp(0, height - 2).long()
    corner = (target_frames[..., None] * height + row) * width + column
    around = torch.stack([corner, corner + 1, corner + width, corner + width + 1], dim=-1).flatten(1)
    true_depths = torch.where(truth.depth_confidence > 0, full_precision(truth.depths), -torch.inf).flatten(1)
    around = true_depths.gather(1, around).unflatten(1, (*corner.shape[1:], 4))
    share, length = SEEN_TOLERANCE
    return depths < around.amax(dim=-1) * (1 + share) + length, (around > -torch.inf).all(dim=-1)
