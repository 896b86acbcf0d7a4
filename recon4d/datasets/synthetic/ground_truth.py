"""Exact ground truth of synthetic scenes: depth, points, dynamic mask and tracks with visibility."""

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

OCCLUSION_TOLERANCE = (0.015, 0.005)
"""A point behind the depth map by less than a fraction of its depth plus a length is visible: (fraction, meters).

Hand-tuned.
"""


def track_points(
    scene: SyntheticScene,
    surfaces: Int[Tensor, "batch n"],
    points: Float[Tensor, "batch n 3"],
    frames: Int[Tensor, "batch"],
) -> Float[Tensor, "batch time n 3"]:
    """Compute the positions of surface points at every time; they move rigidly with their primitive.

    Args:
        scene: Batch of scenes.
        surfaces: Surface index of each point.
        points: World positions at the time of `frames`.
        frames: Index of the frame at which each scene's points are given.

    Returns:
        World positions at all times. Static points are unchanged bit for bit.
    """
    count = scene.shapes.is_active.shape[-1]
    time = scene.phases.shape[1]
    batch = torch.arange(len(frames), device=frames.device)[:, None]
    primitive = torch.where(surfaces < count, surfaces, 0)
    world_from_local = scene.shapes.world_from_local
    then = world_from_local[batch, frames[:, None], primitive]
    local = (invert(then)[..., :3, :] @ _homogeneous(points)[..., None])[..., 0]
    at_all_times = world_from_local.gather(2, primitive[:, None, :, None, None].expand(-1, time, -1, 4, 4))
    moved = (at_all_times[..., :3, :] @ _homogeneous(local)[:, None, ..., None])[..., 0]
    # Static points are kept bit for bit.
    return torch.where(is_on_dynamic_primitive(scene, surfaces)[:, None, :, None], moved, points[:, None])


def is_on_dynamic_primitive(scene: SyntheticScene, surfaces: Int[Tensor, "batch n"]) -> Bool[Tensor, "batch n"]:
    """Test whether surfaces belong to primitives that move.

    Args:
        scene: Batch of scenes.
        surfaces: Surface indices.

    Returns:
        True for surfaces of dynamic primitives.
    """
    count = scene.shapes.is_active.shape[-1]
    return (surfaces < count) & scene.shapes.is_dynamic.gather(1, torch.where(surfaces < count, surfaces, 0))


def project_with_visibility(
    scene: SyntheticScene, depths: Float[Tensor, "batch time height width"], points: Float[Tensor, "batch time n 3"]
) -> tuple[Float[Tensor, "batch time n 2"], Bool[Tensor, "batch time n"]]:
    """Project points to all frames and test their visibility.

    Args:
        scene: Batch of scenes.
        depths: Depth maps of all frames.
        points: World positions at the time of each frame.

    Returns:
        Pixels (x, y), and whether the point is inside the image and not occluded.
    """
    height, width = depths.shape[-2:]
    in_camera = transform_points(scene.cameras.cam_from_world, points)
    pixels = project(in_camera, scene.cameras.intrinsics)
    z = in_camera[..., 2]
    inside = (z > 0.15) & (pixels > 0).all(dim=-1) & (pixels[..., 0] < width) & (pixels[..., 1] < height)
    # Use the farthest of the four surrounding pixels, because at an edge the point may belong to either side.
    column = (pixels[..., 0] - 0.5).floor().clamp(0, width - 2).long()
    row = (pixels[..., 1] - 0.5).floor().clamp(0, height - 2).long()
    flat, corner = depths.flatten(2), row * width + column
    surrounding = [flat.gather(2, corner + step) for step in (0, 1, width, width + 1)]
    farthest = torch.stack(surrounding).amax(dim=0)
    return pixels, inside & (z < farthest * (1 + OCCLUSION_TOLERANCE[0]) + OCCLUSION_TOLERANCE[1])


def is_surface(
    scene: SyntheticScene, surfaces: Int[Tensor, "batch time height width"]
) -> Bool[Tensor, "b t height width"]:
    """Test whether surfaces are solid rather than sky.

    Args:
        scene: Batch of scenes.
        surfaces: Surface index of each pixel.

    Returns:
        False for pixels of the sky.
    """
    return ~_per_surface(scene.surfaces.is_sky, surfaces)


@dataclass(frozen=True)
class Lattice:
    """Regular subset of the pixels of a map: every `stride`-th one in x and y."""

    stride: int = 1
    """Distance between neighbors in pixels."""
    start: tuple[int, int] | None = None
    """Row and column of the first pixel. None starts at the center of the first `stride` x `stride` square."""

    def subsample(self, maps: Tensor) -> Tensor:
        """Select the values of maps at the pixels of the lattice.

        Args:
            maps: Maps (*batch, height, width).

        Returns:
            Values (*batch, rows, columns).
        """
        row, column = (self.stride // 2,) * 2 if self.start is None else self.start
        return maps[..., row :: self.stride, column :: self.stride]


ALL_PIXELS = Lattice()
"""The lattice of all pixels."""


def make_ground_truth(
    scene: SyntheticScene, hits: Hits, anchors: Int[Tensor, "batch anchor"], lattice: Lattice = ALL_PIXELS
) -> Scene:
    """Build the true scene in the world frame of the first camera.

    Args:
        scene: Batch of scenes.
        hits: Hits of the pixels of all frames.
        anchors: Anchor frames of each scene; may be empty.
        lattice: Pixels of the anchors to track.

    Returns:
        The ground truth, with unknown depth and points where there is sky, and no tracks if there are no anchors.
    """
    known = is_surface(scene, hits.surfaces)
    confidence = known.to(hits.depths.dtype)
    truth = Scene(
        cameras=scene.cameras,
        depths=hits.depths * confidence,
        depth_confidence=confidence,
        points=hits.points,
        point_confidence=confidence,
        dynamic=is_on_dynamic_primitive(scene, hits.surfaces.flatten(1)).reshape(known.shape).to(confidence.dtype),
        metres_per_unit=torch.ones_like(scene.phases[:, 0]),
        tracks=_make_tracks(scene, hits, known, anchors, lattice) if anchors.shape[1] else None,
    )
    truth = truth.in_frame(0).zero_unknown_points()
    return truth if truth.tracks is None else replace(truth, tracks=_match_anchor_points(scene, hits, truth, lattice))


def _make_tracks(scene: SyntheticScene, hits: Hits, known: Tensor, anchors: Tensor, lattice: Lattice) -> Tracks:
    """Track the pixels of the lattice from each anchor."""
    height, width = hits.depths.shape[-2:]
    batch = torch.arange(len(anchors), device=anchors.device)
    points, visibility, confidence = [], [], []
    for frames in anchors.unbind(1):
        surfaces = lattice.subsample(hits.surfaces[batch, frames]).flatten(1)
        anchor_points = lattice.subsample(hits.points[batch, frames].movedim(-1, 1)).flatten(2).transpose(1, 2)
        moved = track_points(scene, surfaces, anchor_points, frames)
        is_known = lattice.subsample(known[batch, frames]).flatten(1)[:, None].expand(moved.shape[:-1])
        _, is_in_view = project_with_visibility(scene, hits.depths, moved)
        at_anchor = torch.arange(moved.shape[1], device=anchors.device)[None, :, None] == frames[:, None, None]
        points.append(moved)
        visibility.append((is_known & (is_in_view | at_anchor)).to(moved.dtype))
        confidence.append(is_known.to(moved.dtype))
    pixels = lattice.subsample(pixel_grid(height, width, anchors.device).movedim(-1, 0)).flatten(1).T
    return Tracks(
        points=torch.stack(points, dim=1),
        visibility=torch.stack(visibility, dim=1),
        confidence=torch.stack(confidence, dim=1),
        anchors=anchors,
        pixels=pixels.expand(*anchors.shape, -1, -1),
    )


def _match_anchor_points(scene: SyntheticScene, hits: Hits, truth: Scene, lattice: Lattice) -> Tracks:
    """Make tracks equal the point map bit for bit at the anchor's time, and at all times for static points."""
    tracks = truth.tracks
    assert tracks is not None
    batch = torch.arange(len(tracks.anchors), device=tracks.anchors.device)[:, None]
    at_anchors = truth.points[batch, tracks.anchors].movedim(-1, 2)
    start = lattice.subsample(at_anchors).flatten(3).transpose(2, 3)[:, :, None]
    surfaces = lattice.subsample(hits.surfaces[batch, tracks.anchors]).flatten(1)
    is_dynamic = is_on_dynamic_primitive(scene, surfaces).reshape(start.shape[:-1])
    times = torch.arange(truth.num_frames, device=tracks.anchors.device)
    at_anchor = (tracks.anchors[..., None] == times)[..., None]
    known = tracks.confidence[:, :, :1] > 0
    return replace(tracks, points=torch.where((is_dynamic & known & ~at_anchor)[..., None], tracks.points, start))


def _per_surface(values: Tensor, surfaces: Tensor) -> Tensor:
    """Look up values of surfaces by the surface index of each pixel."""
    return values.gather(1, surfaces.flatten(1)).reshape(surfaces.shape)


def _homogeneous(points: Tensor) -> Tensor:
    """Append a 1 to each point."""
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
