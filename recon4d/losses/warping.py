"""Warps between frames: where the pixels of a source frame are in a target frame, and which of them are occluded there.

A pixel is lifted to the world by depth and camera, or by its track at the target's time, and projected to the target.
Warps are differentiable in depth, cameras and tracks; the occlusion test is not.
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
"""Distance in pixels from the image border to the outermost pixel centers, minus a margin for rounding.

Samples inside of it need no extrapolation, and a frame warped onto itself keeps all its pixels.
"""

DEPTH_TOLERANCE = 0.05
"""A point is occluded if it is behind the target's surface by more than this fraction of its depth. Hand-tuned."""


@dataclass(frozen=True, eq=False)
class Warp(TensorRecord):
    """Position of every pixel of a source frame in the image and camera of a target frame."""

    pixels: Float[Tensor, "*batch height width 2"]
    """Pixel (x, y) in the target's maps; finite but arbitrary for unknown pixels and behind the camera."""
    depths: Float[Tensor, "*batch height width"]
    """Depth in the target's camera."""
    in_view: Bool[Tensor, "*batch height width"]
    """True for known pixels in front of the camera and inside the target image."""


def warp_static(scene: Scene, source: int, target: int) -> Warp:
    """Warp pixels by depth and cameras, as if the scene were static.

    Args:
        scene: Scene; pixels with depth confidence 0 are unknown.
        source: Index of the source frame.
        target: Index of the target frame.

    Returns:
        The warp from source to target.
    """
    known = scene.depth_confidence[..., source, :, :] > 0
    depths = scene.depths[..., source, :, :]
    depths = torch.where(known, depths, torch.ones_like(depths))
    in_camera = unproject_map(depths, scene.cameras.intrinsics[..., source, :, :])
    points = transform_points(scene.cameras.world_from_cam[..., source, :, :], in_camera)
    return warp_points(points, known, scene, target)


def warp_tracked(scene: Scene, anchor: int, target: int) -> Warp:
    """Warp the pixels of an anchor by their tracks.

    Args:
        scene: Scene with dense tracks; track points with confidence 0 are unknown.
        anchor: Position of the source frame in `tracks.anchors`.
        target: Index of the target frame.

    Returns:
        The warp from the anchor to the target.

    Raises:
        ValueError: If the scene has no tracks or they are not dense.
    """
    if scene.tracks is None or scene.tracks.points.shape[-2] != scene.size[0] * scene.size[1]:
        given = "none" if scene.tracks is None else str(scene.tracks.points.shape[-2])
        raise ValueError(f"maps of size {scene.size} need one track per pixel of the anchor, given {given}")
    points = scene.tracks.points[..., anchor, target, :, :].unflatten(-2, scene.size)
    known = scene.tracks.confidence[..., anchor, target, :].unflatten(-1, scene.size) > 0
    return warp_points(points, known, scene, target)


def warp_points(
    points: Float[Tensor, "*batch height width 3"],
    known: Bool[Tensor, "*batch height width"],
    scene: Scene,
    target: int,
) -> Warp:
    """Project one world point per pixel to a target frame.

    Args:
        points: World points at the time of the target frame.
        known: Mask of the known points.
        scene: Scene that contains the cameras.
        target: Index of the target frame.

    Returns:
        The warp to the target.
    """
    cam_from_world = invert(scene.cameras.world_from_cam[..., target, :, :])
    safe = torch.where(known[..., None], points, torch.zeros_like(points))
    in_camera = transform_points(cam_from_world, safe)
    depths = in_camera[..., 2]
    in_front = known & (depths > MIN_PROJECTED_DEPTH)
    # Points behind the camera have no pixel, and a division by a depth near 0 would have an infinite gradient.
    ahead = torch.where(in_front[..., None], in_camera, torch.ones_like(in_camera))
    pixels = project(ahead, scene.cameras.intrinsics[..., target, :, :])
    height, width = scene.size
    x, y = pixels.unbind(-1)
    inside = (x >= BORDER) & (x <= width - BORDER) & (y >= BORDER) & (y <= height - BORDER)
    return Warp(pixels=pixels, depths=depths, in_view=in_front & inside)


def is_unoccluded(
    warp: Warp,
    target_depths: Float[Tensor, "*batch height width"],
    target_valid: Bool[Tensor, "*batch height width"],
    tolerance: float = DEPTH_TOLERANCE,
) -> Bool[Tensor, "*batch height width"]:
    """Find pixels that are in view of the target frame and not behind its surface.

    A pixel is occluded if its depth exceeds the target's depth map by more than the tolerance. A pixel in front of the
    surface is not occluded: one of the depths is wrong, which is for a loss to correct.

    Args:
        warp: Warp from the source to the target frame.
        target_depths: Depth of the target frame.
        target_valid: Mask of known target depth; a pixel is rejected if any depth that it interpolates is unknown.
        tolerance: Tolerated depth difference, as a fraction of the target's depth.

    Returns:
        Mask of the source pixels that are visible in the target frame, without gradient.
    """
    unknown = (~target_valid).to(target_depths.dtype)
    depths = torch.where(target_valid, target_depths, torch.zeros_like(target_depths))
    with torch.no_grad():
        size = (target_depths.shape[-2], target_depths.shape[-1])
        surface, share_unknown = sample_bilinear(torch.stack([depths, unknown], dim=-3), warp.pixels, size).unbind(-3)
        in_front = warp.depths <= surface * (1 + tolerance)
        return warp.in_view & in_front & (share_unknown < 1e-3)


def sample_bilinear(
    maps: Float[Tensor, "*batch channels map_height map_width"],
    pixels: Float[Tensor, "*batch height width 2"],
    size: tuple[int, int],
) -> Float[Tensor, "*batch channels height width"]:
    """Sample maps bilinearly at pixels of the image that they cover.

    The centers of the first cell of a map and of the first pixel are at half their size, see `F.grid_sample` with
    ``align_corners=False``. Outside of the outermost centers, values of the border are repeated.

    Args:
        maps: Maps of any resolution, such as features of patches.
        pixels: Pixels (x, y) to sample at.
        size: Height and width of the image in pixels.

    Returns:
        Sampled values.
    """
    height, width = size
    # From -1 to 1 across the whole image, which is the convention of align_corners=False.
    unit = torch.stack([2 * pixels[..., 0] / width - 1, 2 * pixels[..., 1] / height - 1], dim=-1)
    flat_maps = maps.flatten(0, -4) if maps.ndim > 3 else maps[None]
    flat_unit = unit.reshape(-1, *unit.shape[-3:])
    values = F.grid_sample(flat_maps, flat_unit, mode="bilinear", padding_mode="border", align_corners=False)
    return values.reshape(*maps.shape[:-2], *pixels.shape[-3:-1])
