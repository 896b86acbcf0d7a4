"""A sample cut and scaled to another size, with cameras, truth and tracks carried along."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.datasets.sample import Sample
from recon4d.geometry import cropped_intrinsics, transform_points, unproject_map
from recon4d.records import (
    Clip,
    Priors,
    Scene,
    Tracks,
)

BORDER_TOLERANCE = 0.01
"""Pixels by which a tracked point may miss the picture and still count as in it: rounding must hide nothing."""


@dataclass(frozen=True)
class Window:
    """A part of a picture in its own pixels: columns from `left`, rows from `top`."""

    left: int
    top: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def central_window(old_size: tuple[int, int], new_size: tuple[int, int]) -> Window:
    """The largest window with the aspect of `new_size` in the middle of a picture of `old_size` (height, width)."""
    height, width = _largest(old_size, new_size)
    return Window((old_size[1] - width) // 2, (old_size[0] - height) // 2, height, width)


def random_window(
    old_size: tuple[int, int], new_size: tuple[int, int], smallest: float, random: np.random.Generator
) -> Window:
    """A window with the aspect of `new_size`, anywhere, whose sides are `smallest` to 1 of the largest one's.

    Raises ``ValueError`` unless `smallest` is in (0, 1].
    """
    if not 0 < smallest <= 1:
        raise ValueError(f"smallest = {smallest:g}; wanted a share above 0, at most 1")
    share = random.uniform(smallest, 1.0)
    height, width = (max(round(share * side), 1) for side in _largest(old_size, new_size))
    left, top = random.integers(old_size[1] - width + 1), random.integers(old_size[0] - height + 1)
    return Window(int(left), int(top), height, width)


def resize_and_crop(sample: Sample, window: Window, size: tuple[int, int]) -> Sample:
    """What `window` shows of every frame, at `size` (height, width); the world stays where it is.

    With a window of `size`'s aspect both axes scale alike up to the rounding of the window to whole pixels; intrinsics
    follow each axis's own factor, so they are exact in any case. Images are resized bilinearly (antialiased), truth is
    taken from the nearest pixel, sparse known depth is averaged over known pixels (as `Clip.resized` does). Queries
    that fall outside get confidence 0, and a tracked point that has left the picture is not visible. Raises
    ``ValueError`` for a window that reaches beyond the picture.
    """
    height, width = sample.clip.size
    inside = 0 <= window.left <= width - window.width and 0 <= window.top <= height - window.height
    if not inside or min(*window.size, *size) < 1:
        raise ValueError(f"{window} at size {size} does not lie in pictures of {height} rows and {width} columns")
    ids = sample.object_ids
    return replace(
        sample,
        clip=_clip(sample.clip, window).resized(*size),
        scene=_scene(sample.scene, window, size),
        object_ids=None if ids is None else _nearest(ids, window, size),
    )


def _largest(old_size: tuple[int, int], new_size: tuple[int, int]) -> tuple[int, int]:
    scale = min(old_size[0] / new_size[0], old_size[1] / new_size[1])
    return max(round(scale * new_size[0]), 1), max(round(scale * new_size[1]), 1)


def _clip(clip: Clip, window: Window) -> Clip:
    known = None if clip.priors is None else _known(clip.priors, window)
    return replace(clip, images=_cut(clip.images, window), priors=known)


def _known(known: Priors, window: Window) -> Priors:
    return replace(
        known,
        intrinsics=cropped_intrinsics(known.intrinsics, window.left, window.top),
        depths=None if known.depths is None else _cut(known.depths, window),
        ignore=None if known.ignore is None else _cut(known.ignore, window),
    )


def _cut(maps: Tensor, window: Window) -> Tensor:
    return maps[..., window.top : window.top + window.height, window.left : window.left + window.width]


def _scene(scene: Scene, window: Window, size: tuple[int, int]) -> Scene:
    # A blend of depths across an edge is a point in the air between two surfaces, which no camera has seen.
    depths = _nearest(scene.depths, window, size)
    cameras = scene.cameras.cropped(window.left, window.top).resized(window.size, size)
    points = _nearest(scene.points.movedim(-1, -3), window, size).movedim(-3, -1)
    depth_confidence = _nearest(scene.depth_confidence, window, size)
    point_confidence = _nearest(scene.point_confidence, window, size)
    # The nearest old pixel's center is not quite the new one's: points follow the depth along the new pixel's own ray.
    on_rays = transform_points(cameras.world_from_cam, unproject_map(depths, cameras.intrinsics))
    both_known = (depth_confidence > 0) & (point_confidence > 0)
    cut = replace(
        scene,
        cameras=cameras,
        depths=depths,
        depth_confidence=depth_confidence,
        points=torch.where(both_known[..., None], on_rays, points),
        point_confidence=point_confidence,
        dynamic=_nearest(scene.dynamic, window, size),
    )
    if scene.tracks is None:
        return cut
    moved = _moved_pixels(scene.tracks.pixels, window, size)
    seen_at = replace(cut, tracks=replace(scene.tracks, pixels=moved)).track_pixels
    return replace(cut, tracks=_tracks(scene.tracks, moved, seen_at, size))


def _nearest(maps: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Maps (..., height, width): for each new pixel the old one that lies under its center, found in whole numbers."""
    rows = window.top + (2 * torch.arange(size[0]) + 1) * window.height // (2 * size[0])
    columns = window.left + (2 * torch.arange(size[1]) + 1) * window.width // (2 * size[1])
    return maps[..., rows[:, None], columns]


def _moved_pixels(
    pixels: Float[Tensor, "*batch anchor query 2"], window: Window, size: tuple[int, int]
) -> Float[Tensor, "*batch anchor query 2"]:
    corner = pixels.new_tensor([window.left, window.top])
    return (pixels - corner) * pixels.new_tensor([size[1] / window.width, size[0] / window.height])


def _tracks(tracks: Tracks, pixels: Tensor, pixels_over_time: Tensor, size: tuple[int, int]) -> Tracks:
    end = pixels.new_tensor([size[1], size[0]])
    is_query = ((pixels >= 0) & (pixels < end)).all(dim=-1)
    in_picture = ((pixels_over_time > -BORDER_TOLERANCE) & (pixels_over_time < end + BORDER_TOLERANCE)).all(dim=-1)
    kept = is_query[..., None, :].to(tracks.confidence.dtype)
    return replace(
        tracks,
        visibility=tracks.visibility * kept * in_picture,
        confidence=tracks.confidence * kept,
        # Inside the picture even where unknown: whoever samples maps there must not trip.
        pixels=torch.where(is_query[..., None], pixels, torch.zeros_like(pixels)),
    )
