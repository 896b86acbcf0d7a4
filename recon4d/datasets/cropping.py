"""Cropping and resizing of samples: images, cameras, depth, points, priors and tracks stay consistent."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.datasets.sample import Sample
from recon4d.geometry import cropped_intrinsics, is_in_image, transform_points, unproject_map
from recon4d.records import (
    Clip,
    Priors,
    Scene,
    Tracks,
)

BORDER_TOLERANCE = 0.01
"""Distance in pixels by which a visible point may lie outside the image, so that rounding does not hide it."""


@dataclass(frozen=True)
class CropWindow:
    """A rectangle of an image, in whole pixels."""

    left: int
    """First column."""
    top: int
    """First row."""
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def random_crop_window(
    image_size: tuple[int, int], target_size: tuple[int, int], min_scale: float, rng: np.random.Generator
) -> CropWindow:
    """Sample a window of random size and position with a given aspect ratio.

    Args:
        image_size: Height and width of the image.
        target_size: Height and width whose aspect ratio the window has.
        min_scale: Smallest side length as a fraction of the largest window that fits, above 0 and at most 1.
        rng: Source of randomness.

    Returns:
        The window, in pixels of the image.

    Raises:
        ValueError: If `min_scale` is out of range.
    """
    if not 0 < min_scale <= 1:
        raise ValueError(f"min_scale = {min_scale:g}; wanted a value above 0 and at most 1")
    scale = rng.uniform(min_scale, 1.0)
    height, width = (max(round(scale * side), 1) for side in _largest_crop_size(image_size, target_size))
    left, top = rng.integers(image_size[1] - width + 1), rng.integers(image_size[0] - height + 1)
    return CropWindow(int(left), int(top), height, width)


def crop_and_resize(sample: Sample, window: CropWindow, size: tuple[int, int]) -> Sample:
    """Crop all frames to a window and resize the result.

    Cameras keep their poses. If the window has the aspect ratio of `size`, both axes are scaled equally up to the
    rounding of the window to whole pixels. The intrinsics use the factor of each axis and are always exact.

    Images are resized bilinearly with antialiasing. Ground-truth maps take the nearest pixel. Depth priors are averaged
    over known pixels, as in `Clip.resized`. Queries outside the window get confidence 0, and points outside the window
    get visibility 0.

    Args:
        sample: A sample, shape (*batch).
        window: The region to keep.
        size: Height and width of the result.

    Returns:
        The cropped and resized sample.

    Raises:
        ValueError: If the window or the size is empty, or the window reaches beyond the image.
    """
    height, width = sample.clip.size
    is_inside = 0 <= window.left <= width - window.width and 0 <= window.top <= height - window.height
    if not is_inside or min(*window.size, *size) < 1:
        raise ValueError(f"{window} resized to {size} does not fit into images of {height} rows and {width} columns")
    ids = sample.object_ids
    return replace(
        sample,
        clip=_crop_clip(sample.clip, window).resized(*size),
        scene=_crop_and_resize_scene(sample.scene, window, size),
        object_ids=None if ids is None else _resize_nearest(ids, window, size),
    )


def _largest_crop_size(image_size: tuple[int, int], target_size: tuple[int, int]) -> tuple[int, int]:
    scale = min(image_size[0] / target_size[0], image_size[1] / target_size[1])
    return max(round(scale * target_size[0]), 1), max(round(scale * target_size[1]), 1)


def _crop_clip(clip: Clip, window: CropWindow) -> Clip:
    priors = None if clip.priors is None else _crop_priors(clip.priors, window)
    return replace(clip, images=_crop(clip.images, window), priors=priors)


def _crop_priors(priors: Priors, window: CropWindow) -> Priors:
    return replace(
        priors,
        intrinsics=cropped_intrinsics(priors.intrinsics, window.left, window.top),
        depths=None if priors.depths is None else _crop(priors.depths, window),
        ignore=None if priors.ignore is None else _crop(priors.ignore, window),
    )


def _crop(maps: Tensor, window: CropWindow) -> Tensor:
    return maps[..., window.top : window.top + window.height, window.left : window.left + window.width]


def _crop_and_resize_scene(scene: Scene, window: CropWindow, size: tuple[int, int]) -> Scene:
    # Depth is not interpolated: a blend across an edge is a point in the air between two surfaces.
    depths = _resize_nearest(scene.depths, window, size)
    cameras = scene.cameras.cropped(window.left, window.top).resized(window.size, size)
    points = _resize_nearest(scene.points.movedim(-1, -3), window, size).movedim(-3, -1)
    depth_confidence = _resize_nearest(scene.depth_confidence, window, size)
    point_confidence = _resize_nearest(scene.point_confidence, window, size)
    # The center of the nearest source pixel differs from that of the new pixel, so points are unprojected along the
    # ray of the new pixel where the depth is known.
    unprojected = transform_points(cameras.world_from_cam, unproject_map(depths, cameras.intrinsics))
    both_known = (depth_confidence > 0) & (point_confidence > 0)
    resized = replace(
        scene,
        cameras=cameras,
        depths=depths,
        depth_confidence=depth_confidence,
        points=torch.where(both_known[..., None], unprojected, points),
        point_confidence=point_confidence,
        dynamic=_resize_nearest(scene.dynamic, window, size),
    )
    if scene.tracks is None:
        return resized
    query_pixels = _transform_pixels(scene.tracks.pixels, window, size)
    projected = replace(resized, tracks=replace(scene.tracks, pixels=query_pixels)).track_pixels
    return replace(resized, tracks=_crop_tracks(scene.tracks, query_pixels, projected, size))


def _resize_nearest(maps: Tensor, window: CropWindow, size: tuple[int, int]) -> Tensor:
    """Sample maps (..., height, width) at the source pixel below each new pixel's center, in integer arithmetic."""
    rows = window.top + (2 * torch.arange(size[0]) + 1) * window.height // (2 * size[0])
    columns = window.left + (2 * torch.arange(size[1]) + 1) * window.width // (2 * size[1])
    return maps[..., rows[:, None], columns]


def _transform_pixels(
    pixels: Float[Tensor, "*batch anchor query 2"], window: CropWindow, size: tuple[int, int]
) -> Float[Tensor, "*batch anchor query 2"]:
    corner = pixels.new_tensor([window.left, window.top])
    return (pixels - corner) * pixels.new_tensor([size[1] / window.width, size[0] / window.height])


def _crop_tracks(
    tracks: Tracks,
    query_pixels: Float[Tensor, "*batch anchor query 2"],
    projected: Float[Tensor, "*batch anchor time query 2"],
    size: tuple[int, int],
) -> Tracks:
    """Mark queries outside the image as unknown and points outside the image as not visible."""
    end = query_pixels.new_tensor([size[1], size[0]])
    is_query = is_in_image(query_pixels, size)
    in_image = ((projected > -BORDER_TOLERANCE) & (projected < end + BORDER_TOLERANCE)).all(dim=-1)
    is_kept = is_query[..., None, :].to(tracks.confidence.dtype)
    return replace(
        tracks,
        visibility=tracks.visibility * is_kept * in_image,
        confidence=tracks.confidence * is_kept,
        # Unknown queries get a pixel inside the image, so that maps can be sampled there.
        pixels=torch.where(is_query[..., None], query_pixels, torch.zeros_like(query_pixels)),
    )
