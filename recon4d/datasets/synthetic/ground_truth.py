"""What is exactly true of a world: where every pixel of any frame is at every time, and whether it is seen."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.datasets.synthetic.ray_casting import Hits
from recon4d.datasets.synthetic.scene import SyntheticScene
from recon4d.geometry import (
    invert,
    pixel_grid,
    project,
    transform_points,
)
from recon4d.records import Scene, Tracks

SEEN_TOLERANCE = (0.015, 0.005)
"""A point counts as seen up to this share of the depth map's depth, and meters, behind it."""


def follow(
    world: SyntheticScene,
    surfaces: Int[Tensor, "batch n"],
    points: Float[Tensor, "batch n 3"],
    frames: Int[Tensor, "batch"],
) -> Float[Tensor, "batch time n 3"]:
    """World points on surfaces, seen at `frames`, at every time: they ride on their primitive."""
    count = world.shapes.active.shape[-1]
    time = world.phases.shape[1]
    batch = torch.arange(len(frames), device=frames.device)[:, None]
    primitive = torch.where(surfaces < count, surfaces, 0)
    world_from_local = world.shapes.world_from_local
    then = world_from_local[batch, frames[:, None], primitive]
    local = (invert(then)[..., :3, :] @ _homogeneous(points)[..., None])[..., 0]
    at_all_times = world_from_local.gather(2, primitive[:, None, :, None, None].expand(-1, time, -1, 4, 4))
    moved = (at_all_times[..., :3, :] @ _homogeneous(local)[:, None, ..., None])[..., 0]
    # The room, and what stands still, keeps its points bit for bit.
    return torch.where(rides(world, surfaces)[:, None, :, None], moved, points[:, None])


def rides(world: SyntheticScene, surfaces: Int[Tensor, "batch n"]) -> Bool[Tensor, "batch n"]:
    """Whether a surface belongs to a primitive that moves."""
    count = world.shapes.active.shape[-1]
    return (surfaces < count) & world.shapes.moves.gather(1, torch.where(surfaces < count, surfaces, 0))


def see(
    world: SyntheticScene, depths: Float[Tensor, "batch time height width"], points: Float[Tensor, "batch time n 3"]
) -> tuple[Float[Tensor, "batch time n 2"], Bool[Tensor, "batch time n"]]:
    """Where points fall in each frame's picture, and whether they are seen there and not behind something."""
    height, width = depths.shape[-2:]
    in_camera = transform_points(world.cameras.cam_from_world, points)
    pixels = project(in_camera, world.cameras.intrinsics)
    z = in_camera[..., 2]
    inside = (z > 0.15) & (pixels > 0).all(dim=-1) & (pixels[..., 0] < width) & (pixels[..., 1] < height)
    # The farthest of the four pixels around: at an edge the point may belong to either side.
    column = (pixels[..., 0] - 0.5).floor().clamp(0, width - 2).long()
    row = (pixels[..., 1] - 0.5).floor().clamp(0, height - 2).long()
    flat, corner = depths.flatten(2), row * width + column
    around = [flat.gather(2, corner + step) for step in (0, 1, width, width + 1)]
    farthest = torch.stack(around).amax(dim=0)
    return pixels, inside & (z < farthest * (1 + SEEN_TOLERANCE[0]) + SEEN_TOLERANCE[1])


def is_surface(
    world: SyntheticScene, surfaces: Int[Tensor, "batch time height width"]
) -> Bool[Tensor, "b t height width"]:
    """False where there is only sky."""
    return ~_per_surface(world.surfaces.is_sky, surfaces)


@dataclass(frozen=True)
class Lattice:
    """Which pixels of an anchor are tracked: every `stride`-th in x and in y."""

    stride: int = 1
    start: tuple[int, int] | None = None
    """Row and column of the first; None for the middle of the first square of that side."""

    def of(self, maps: Tensor) -> Tensor:
        """Those values of maps (*batch, height, width), as (*batch, rows, columns)."""
        row, column = (self.stride // 2,) * 2 if self.start is None else self.start
        return maps[..., row :: self.stride, column :: self.stride]


ALL_PIXELS = Lattice()


def ground_truth_of(
    world: SyntheticScene, hits: Hits, anchors: Int[Tensor, "batch anchor"], tracked: Lattice = ALL_PIXELS
) -> Scene:
    """The scene in the first camera's world, with tracks of the anchors' pixels on a lattice."""
    known = is_surface(world, hits.surfaces)
    confidence = known.to(hits.depths.dtype)
    scene = Scene(
        cameras=world.cameras,
        depths=hits.depths * confidence,
        depth_confidence=confidence,
        points=hits.points,
        point_confidence=confidence,
        dynamic=rides(world, hits.surfaces.flatten(1)).reshape(known.shape).to(confidence.dtype),
        metres_per_unit=torch.ones_like(world.phases[:, 0]),
        tracks=_grid_tracks(world, hits, known, anchors, tracked) if anchors.shape[1] else None,
    )
    scene = scene.in_frame(0).zero_unknown_points()
    return scene if scene.tracks is None else replace(scene, tracks=_start_at_points(world, hits, scene, tracked))


def _grid_tracks(world: SyntheticScene, hits: Hits, known: Tensor, anchors: Tensor, tracked: Lattice) -> Tracks:
    height, width = hits.depths.shape[-2:]
    batch = torch.arange(len(anchors), device=anchors.device)
    points, visible, confidence = [], [], []
    for frames in anchors.unbind(1):
        surfaces = tracked.of(hits.surfaces[batch, frames]).flatten(1)
        seen_points = tracked.of(hits.points[batch, frames].movedim(-1, 1)).flatten(2).transpose(1, 2)
        moved = follow(world, surfaces, seen_points, frames)
        is_known = tracked.of(known[batch, frames]).flatten(1)[:, None].expand(moved.shape[:-1])
        _, seen = see(world, hits.depths, moved)
        at_anchor = torch.arange(moved.shape[1], device=anchors.device)[None, :, None] == frames[:, None, None]
        points.append(moved)
        visible.append((is_known & (seen | at_anchor)).to(moved.dtype))
        confidence.append(is_known.to(moved.dtype))
    pixels = tracked.of(pixel_grid(height, width, anchors.device).movedim(-1, 0)).flatten(1).T
    return Tracks(
        points=torch.stack(points, dim=1),
        visibility=torch.stack(visible, dim=1),
        confidence=torch.stack(confidence, dim=1),
        anchors=anchors,
        pixels=pixels.expand(*anchors.shape, -1, -1),
    )


def _start_at_points(world: SyntheticScene, hits: Hits, scene: Scene, tracked: Lattice) -> Tracks:
    """The scene's tracks, bit for bit its own points at the anchor's time, and always for what stands still."""
    tracks = scene.tracks
    assert tracks is not None
    batch = torch.arange(len(tracks.anchors), device=tracks.anchors.device)[:, None]
    at_anchors = scene.points[batch, tracks.anchors].movedim(-1, 2)
    start = tracked.of(at_anchors).flatten(3).transpose(2, 3)[:, :, None]
    surfaces = tracked.of(hits.surfaces[batch, tracks.anchors]).flatten(1)
    moves = rides(world, surfaces).reshape(start.shape[:-1])
    times = torch.arange(scene.num_frames, device=tracks.anchors.device)
    at_anchor = (tracks.anchors[..., None] == times)[..., None]
    known = tracks.confidence[:, :, :1] > 0
    return replace(tracks, points=torch.where((moves & known & ~at_anchor)[..., None], tracks.points, start))


def _per_surface(values: Tensor, surfaces: Tensor) -> Tensor:
    return values.gather(1, surfaces.flatten(1)).reshape(surfaces.shape)


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
