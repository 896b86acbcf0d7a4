"""Where the pixels of one frame are seen in the picture of another, and whether they are seen there at all.

A pixel of frame t goes to the world by depth and camera, or by its track to where it is at the other frame's time,
and from the world into the other picture. Everything is differentiable in depth, cameras and tracks; what decides
whether a pixel is seen is not.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import (
    invert,
    project,
    transform_points,
    unproject_map,
)
from recon4d.geometry.pinhole import MIN_PROJECTED_DEPTH
from recon4d.records import Scene, TensorRecord

BORDER = 0.49
"""Pixels from the picture's border to the outermost centers, less a little for rounding: inside of it nothing that
is sampled is extrapolated, and a frame warped onto itself keeps every pixel."""

DEPTH_TOLERANCE = 0.05
"""A point farther away than the surface seen there by more than this share of its depth is behind it."""


@dataclass(frozen=True, eq=False)
class Warp(TensorRecord):
    """For every pixel of a source frame, where it is in the picture and the camera of a target frame."""

    pixels: Float[Tensor, "*batch height width 2"]
    """(x, y) in the target's maps; finite, but without meaning, where it is unknown or behind the camera."""
    depths: Float[Tensor, "*batch height width"]
    """z in the target's camera."""
    in_picture: Bool[Tensor, "*batch height width"]
    """Known, in front of the camera and within the picture."""


def warp_still(scene: Scene, source: int, target: int) -> Warp:
    """Pixels of frame `source` in frame `target` as if nothing moved, by depth and both cameras.

    Pixels of depth confidence 0 are unknown.
    """
    known = scene.depth_confidence[..., source, :, :] > 0
    depths = scene.depths[..., source, :, :]
    depths = torch.where(known, depths, torch.ones_like(depths))
    in_camera = unproject_map(depths, scene.cameras.intrinsics[..., source, :, :])
    points = transform_points(scene.cameras.world_from_cam[..., source, :, :], in_camera)
    return warp_points(points, known, scene, target)


def warp_tracked(scene: Scene, anchor: int, target: int) -> Warp:
    """Pixels of the frame of `anchor` (a position in `tracks.anchors`) in frame `target`, by their tracks.

    Points of confidence 0 are unknown. Raises ``ValueError`` without tracks, or with other than one for every pixel.
    """
    if scene.tracks is None or scene.tracks.points.shape[-2] != scene.size[0] * scene.size[1]:
        given = "none" if scene.tracks is None else str(scene.tracks.points.shape[-2])
        raise ValueError(f"{given} tracks for maps of {scene.size}; wanted one for every pixel of the anchor")
    points = scene.tracks.points[..., anchor, target, :, :].unflatten(-2, scene.size)
    known = scene.tracks.confidence[..., anchor, target, :].unflatten(-1, scene.size) > 0
    return warp_points(points, known, scene, target)


def warp_points(
    points: Float[Tensor, "*batch height width 3"],
    known: Bool[Tensor, "*batch height width"],
    scene: Scene,
    target: int,
) -> Warp:
    """World points, one for every pixel and where they are at the time of frame `target`, in that frame's picture."""
    cam_from_world = invert(scene.cameras.world_from_cam[..., target, :, :])
    safe = torch.where(known[..., None], points, torch.zeros_like(points))
    in_camera = transform_points(cam_from_world, safe)
    depths = in_camera[..., 2]
    in_front = known & (depths > MIN_PROJECTED_DEPTH)
    # Behind the camera there is no pixel, and a gradient divided by a depth of nothing would not be finite.
    ahead = torch.where(in_front[..., None], in_camera, torch.ones_like(in_camera))
    pixels = project(ahead, scene.cameras.intrinsics[..., target, :, :])
    height, width = scene.size
    x, y = pixels.unbind(-1)
    inside = (x >= BORDER) & (x <= width - BORDER) & (y >= BORDER) & (y <= height - BORDER)
    return Warp(pixels=pixels, depths=depths, in_picture=in_front & inside)


def choose_warp(moving: Bool[Tensor, "*batch height width"], tracked: Warp, still: Warp) -> Warp:
    """`tracked` where pixels move and `still` elsewhere."""
    return Warp(
        pixels=torch.where(moving[..., None], tracked.pixels, still.pixels),
        depths=torch.where(moving, tracked.depths, still.depths),
        in_picture=torch.where(moving, tracked.in_picture, still.in_picture),
    )


def seen_in_target(
    warp: Warp,
    target_depths: Float[Tensor, "*batch height width"],
    target_known: Bool[Tensor, "*batch height width"],
    tolerance: float = DEPTH_TOLERANCE,
) -> Bool[Tensor, "*batch height width"]:
    """Pixels in the target's picture that no nearer surface hides, by its own depth map (a z-buffer already there).

    A pixel is hidden where it is deeper than the depth map at its place by more than `tolerance`, a share of it. What
    is nearer than the map is not hidden: one of the depths is wrong, which is what a loss is to find. Where any depth
    that is interpolated is unknown, nothing is seen.
    """
    unknown = (~target_known).to(target_depths.dtype)
    depths = torch.where(target_known, target_depths, torch.zeros_like(target_depths))
    with torch.no_grad():
        size = (target_depths.shape[-2], target_depths.shape[-1])
        surface, share_unknown = sample(torch.stack([depths, unknown], dim=-3), warp.pixels, size).unbind(-3)
        in_front = warp.depths <= surface * (1 + tolerance)
        return warp.in_picture & in_front & (share_unknown < 1e-3)


def sample(
    maps: Float[Tensor, "*batch channels map_height map_width"],
    pixels: Float[Tensor, "*batch height width 2"],
    size: tuple[int, int],
) -> Float[Tensor, "*batch channels height width"]:
    """Bilinear values of maps that cover a picture of `size` (height, width) at its `pixels`.

    The maps may be coarser than the picture (features of patches). The first value stands at the center of the first
    cell, (0.5, 0.5) for maps of the picture's own size; beyond the outermost centers the nearest value goes on.
    """
    height, width = size
    # From -1 to 1 across the whole picture, which is align_corners=False.
    unit = torch.stack([2 * pixels[..., 0] / width - 1, 2 * pixels[..., 1] / height - 1], dim=-1)
    flat_maps = maps.flatten(0, -4) if maps.ndim > 3 else maps[None]
    flat_unit = unit.reshape(-1, *unit.shape[-3:])
    values = F.grid_sample(flat_maps, flat_unit, mode="bilinear", padding_mode="border", align_corners=False)
    return values.reshape(*maps.shape[:-2], *pixels.shape[-3:-1])
