"""Confident points of a scene, colored from the frames, and point cloud files written with trimesh."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.geometry import subsample_mask
from recon4d.io.flying_pixels import flying_pixels
from recon4d.records import Clip, Scene

CONFIDENCE_PERCENTILE = 20.0
"""Percentage of the known pixels, the least confident ones, that are left out. Hand-tuned."""


class NoConfidentPointsError(UserError):
    """The scene has no confident pixel, so there is nothing to write."""


def write_point_cloud(path: str | Path, scene: Scene, clip: Clip, max_points: int = 500_000) -> None:
    """Write the confident points of a scene as a binary PLY file.

    Args:
        path: The file to write or replace, ending in ``.ply``.
        scene: The scene. Points are in its world and unit.
        clip: The frames of the scene at any size, for the colors.
        max_points: Maximum number of points, selected as in `confident_points`.

    Raises:
        NoConfidentPointsError: If there is no point.
        UserError: If the file cannot be written.
    """
    points, colors = confident_points(scene, clip.resized(*scene.size).images, max_points)
    if len(points) == 0:
        raise NoConfidentPointsError("no points: no pixel has a known, confident depth away from depth edges")
    write_colored_points(path, points, colors)


def write_colored_points(path: str | Path, points: Float[Tensor, "n 3"], colors: UInt8[Tensor, "n 3"]) -> None:
    """Write points with colors as a binary PLY or as a GLB file.

    Args:
        path: The file to write or replace, ending in ``.ply`` or ``.glb``.
        points: Points of shape (n, 3), written as they are.
        colors: RGB colors of shape (n, 3).

    Raises:
        ValueError: If the path has another suffix.
        UserError: If the file cannot be written.
    """
    import trimesh

    ending = Path(path).suffix
    if ending not in (".ply", ".glb"):
        raise ValueError(f"points cannot be written to {Path(path).name}; wanted a name that ends in .ply or .glb")
    cloud = trimesh.PointCloud(points.detach().cpu().numpy(), colors=colors.cpu().numpy())
    encoded = cloud.export(file_type=ending.removeprefix("."))
    assert isinstance(encoded, bytes)
    with os_errors_as_user_errors(f"cannot write {path}"):
        Path(path).write_bytes(encoded)


def confident_points(
    scene: Scene, images: UInt8[Tensor, "time 3 height width"], max_points: int | None = None
) -> tuple[Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]:
    """Unproject the confident depths of all frames.

    Pixels of unknown depth, the least confident fifth and flying pixels are left out (see `confident_pixels`).

    Args:
        scene: The scene, without batch axes.
        images: RGB images of shape (time, 3, height, width) at the size of the maps.
        max_points: Maximum number of points. More are subsampled evenly over frames and pixels, deterministically.
            None keeps all.

    Returns:
        World points of shape (n, 3) and their RGB colors of shape (n, 3).

    Raises:
        ValueError: If the images do not have the size of the maps, the scene is a batch, or `max_points` is below 1.
    """
    if scene.batch_shape:
        raise ValueError(f"points are taken from one scene, given a batch of {tuple(scene.batch_shape)}")
    wanted = (scene.num_frames, 3, *scene.size)
    if images.shape != wanted:
        raise ValueError(f"images have shape {tuple(images.shape)}, wanted {wanted} as the scene's maps")
    if max_points is not None and max_points < 1:
        raise ValueError(f"max_points is {max_points}, wanted at least 1")

    chosen = confident_pixels(scene)
    return unproject_pixels(scene, images, chosen if max_points is None else subsample_mask(chosen, max_points))


def unproject_pixels(
    scene: Scene, images: UInt8[Tensor, "time 3 height width"], mask: Bool[Tensor, "time height width"]
) -> tuple[Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]:
    """Unproject the depths of selected pixels.

    Args:
        scene: The scene, without batch axes.
        images: RGB images of shape (time, 3, height, width) at the size of the maps.
        mask: Pixels to unproject, of shape (time, height, width).

    Returns:
        World points of shape (n, 3), frame by frame and row by row, and their RGB colors of shape (n, 3).
    """
    images = images.to(mask.device)
    untracked = replace(scene, tracks=None)
    # One frame at a time, because the points of all pixels of a clip could exceed the memory.
    points = [untracked.frames([frame]).points_from_depth[0][mask[frame]] for frame in range(scene.num_frames)]
    colors = [images[frame].movedim(0, -1)[mask[frame]] for frame in range(scene.num_frames)]
    return torch.cat(points), torch.cat(colors)


def known_pixels(scene: Scene) -> Bool[Tensor, "time height width"]:
    """Select pixels of known depth and camera.

    Args:
        scene: The scene, without batch axes.

    Returns:
        Mask of shape (time, height, width).
    """
    is_known = (scene.depth_confidence > 0) & torch.isfinite(scene.depths) & (scene.depths > 0)
    has_camera = torch.isfinite(scene.cameras.world_from_cam).all(-1).all(-1)
    has_camera &= torch.isfinite(scene.cameras.intrinsics).all(-1).all(-1)
    return is_known & has_camera[:, None, None]


def confident_pixels(
    scene: Scene, percentile: float = CONFIDENCE_PERCENTILE, min_confidence: float = 0.0
) -> Bool[Tensor, "time height width"]:
    """Select pixels of known depth and camera that are confident and not flying (`flying_pixels`).

    Every exporter selects its points by this function.

    Args:
        scene: The scene, without batch axes.
        percentile: Percentage of the known pixels, the least confident ones, that are left out.
        min_confidence: Confidence below which pixels are left out in any case.

    Returns:
        Mask of shape (time, height, width).
    """
    is_known = known_pixels(scene)
    if not is_known.any():
        return is_known
    # numpy, because torch.quantile is limited to 16 million values; >= keeps all pixels if confidence is constant.
    threshold = np.percentile(scene.depth_confidence[is_known].detach().cpu().numpy(), percentile)
    is_confident = scene.depth_confidence >= max(float(threshold), min_confidence)
    return is_known & is_confident & ~flying_pixels(scene.depths, is_known)
