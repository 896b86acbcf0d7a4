"""Larger maps whose edges follow those of the images: joint bilateral upsampling (Kopf et al. 2007)."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.records import Clip, Scene

RADIUS = 2
"""Largest distance of pixels of the smaller map that a pixel is averaged from, in their rows and columns."""
SPATIAL_DEVIATION = 0.8
"""Standard deviation of the weights, in pixels of the smaller map. Hand-tuned."""
COLOR_DEVIATION = 0.06
"""Standard deviation of the weights in colors, in [0, 1]. Hand-tuned."""
MIN_WEIGHT = 1e-4
"""Added weight of the nearest pixel of the smaller map: a color that no neighbor has takes its values. Hand-tuned."""


def output_size(clip_size: tuple[int, int], map_size: tuple[int, int], side: int) -> tuple[int, int]:
    """Compute the size of written maps.

    Args:
        clip_size: Height and width of the clip's images.
        map_size: Height and width of the predicted maps.
        side: Wanted length of the longer side, in pixels.

    Returns:
        Height and width with the aspect ratio of the clip: not larger than the clip, and not smaller than the
        predicted maps (which then stay as they are).
    """
    longest = min(side, max(clip_size))
    if longest <= max(map_size):
        return map_size
    height, width = (max(1, round(longest * length / max(clip_size))) for length in clip_size)
    return height, width


def upsample_scene(scene: Scene, clip: Clip, size: tuple[int, int]) -> Scene:
    """Enlarge the maps of a scene along the edges of its images.

    Depth is averaged as its logarithm. Unknown pixels have no weight, and keep their values. Tracks keep their queries,
    with scaled pixel coordinates.

    Args:
        scene: A single scene.
        clip: The images of the scene, of any size.
        size: Height and width of the new maps.

    Returns:
        The scene with maps of this size; the scene itself if it has this size already. Pixels in the mask `ignore` of
        the clip's priors are unknown.
    """
    if size == scene.size:
        return scene
    resized = scene.resized(*size)
    enlarged = _with_maps(resized, [_upsample_frame(scene, clip, frame, size) for frame in range(scene.num_frames)])
    if clip.priors is None or clip.priors.ignore is None:
        return enlarged
    ignore = clip.priors.resized(clip.size, size).ignore
    return enlarged if ignore is None else enlarged.with_unknown(ignore)


def _with_maps(scene: Scene, frames: list[Float[Tensor, "7 height width"]]) -> Scene:
    maps = torch.stack(frames, dim=1)
    return replace(
        scene,
        depths=maps[0],
        depth_confidence=maps[1],
        points=maps[2:5].movedim(0, -1),
        point_confidence=maps[5],
        dynamic=maps[6],
    )


def _upsample_frame(scene: Scene, clip: Clip, frame: int, size: tuple[int, int]) -> Float[Tensor, "7 height width"]:
    """Upsample depth, its confidence, points, their confidence and the dynamic probability of one frame."""
    image = clip.images[frame][None].float().to(scene.depths.device) / 255
    small, large = (
        F.interpolate(image, one, mode="bilinear", antialias=True, align_corners=False)[0] for one in (scene.size, size)
    )
    depth, depth_confidence = scene.depths[frame], scene.depth_confidence[frame]
    has_depth, has_point = (depth_confidence > 0) & (depth > 0), scene.point_confidence[frame] > 0
    dynamic = scene.dynamic[frame]
    # Values multiplied by their weights, followed by the weights that they are divided by.
    stacked = (
        torch.where(has_depth, depth.clamp(min=torch.finfo(depth.dtype).tiny).log(), 0.0)[None],
        (depth_confidence * has_depth)[None],
        has_depth.to(depth)[None],
        torch.where(has_point[..., None], scene.points[frame], 0.0).movedim(-1, 0),
        scene.point_confidence[frame][None],
        has_point.to(depth)[None],
        dynamic.nan_to_num(0.0)[None],
        dynamic.isfinite().to(depth)[None],
    )
    sums, total = _weighted_sums(torch.cat(stacked), small, large)
    (
        log_depths,
        depth_confidences,
        depth_weights,
        points,
        point_confidences,
        point_weights,
        dynamics,
        dynamic_weights,
    ) = (sums / total).split([len(part) for part in stacked])
    # Unknown values stay as they are: tracks of a frame whose camera is unknown start at them.
    stored = torch.cat([depth[None], scene.points[frame].movedim(-1, 0)])
    unknown_depth, unknown_points = F.interpolate(stored[None], size, mode="nearest-exact")[0].split([1, 3])
    return torch.cat(
        [
            torch.where(depth_weights > 0.5, _divided(log_depths, depth_weights).exp(), unknown_depth),
            torch.where(depth_weights > 0.5, _divided(depth_confidences, depth_weights), 0.0),
            torch.where(point_weights > 0.5, _divided(points, point_weights), unknown_points),
            torch.where(point_weights > 0.5, _divided(point_confidences, point_weights), 0.0),
            torch.where(dynamic_weights > 0.5, _divided(dynamics, dynamic_weights), torch.nan),
        ]
    )


def _divided(
    sums: Float[Tensor, "channel height width"], weights: Float[Tensor, "1 height width"]
) -> Float[Tensor, "channel height width"]:
    return sums / weights.clamp(min=1e-12)


def _weighted_sums(
    values: Float[Tensor, "channel height width"],
    small: Float[Tensor, "3 height width"],
    large: Float[Tensor, "3 new_height new_width"],
) -> tuple[Float[Tensor, "channel new_height new_width"], Float[Tensor, "new_height new_width"]]:
    """Add the values around each new pixel, weighted by distance and by similarity of color."""
    (rows, row_shifts), (columns, column_shifts) = (
        _nearest(old, new, values.device) for old, new in zip(values.shape[1:], large.shape[1:], strict=True)
    )
    padded = F.pad(torch.cat([values, small])[None], [RADIUS] * 4, mode="replicate")[0]
    sums, total = torch.zeros_like(values[:, rows][:, :, columns]), torch.zeros_like(large[0])
    for i in range(-RADIUS, RADIUS + 1):
        for j in range(-RADIUS, RADIUS + 1):
            around = padded[:, rows + i + RADIUS][:, :, columns + j + RADIUS]
            difference = (around[-3:] - large).square().sum(dim=0) / COLOR_DEVIATION**2
            distance = ((i - row_shifts)[:, None].square() + (j - column_shifts).square()) / SPATIAL_DEVIATION**2
            weight = torch.exp(-0.5 * (difference + distance)) + (MIN_WEIGHT if i == j == 0 else 0.0)
            sums.addcmul_(around[:-3], weight)
            total.add_(weight)
    return sums, total


def _nearest(old: int, new: int, device: torch.device) -> tuple[Int[Tensor, " new"], Float[Tensor, " new"]]:
    """Compute the nearest old pixel of each new one along an axis, and the distance from its center."""
    places = (torch.arange(new, device=device) + 0.5) * old / new - 0.5
    nearest = places.round().long().clamp(0, old - 1)
    return nearest, places - nearest
