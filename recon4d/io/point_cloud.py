"""The points of a scene that can be believed, colored from the frames, and their PLY file (door of trimesh)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.geometry import is_depth_edge, thin
from recon4d.records import Clip, Scene

CONFIDENCE_PERCENTILE = 20.0
"""Pixels less confident than this share (per cent) of the known ones are left out."""


class NoConfidentPointsError(ValueError):
    """No pixel of the scene can be believed, so that there is nothing to write."""


def write_point_cloud(path: str | Path, scene: Scene, clip: Clip, max_points: int = 500_000) -> None:
    """Write the confident points of `scene`, colored from `clip`, to `path` as a binary PLY in the scene's unit.

    The clip may be at any size. At most `max_points` are written, picked as in `confident_points`. Raises
    `NoConfidentPointsError` (a ``ValueError``) when there is no point at all.
    """
    points, colors = confident_points(scene, clip.resized(*scene.size).images, max_points)
    if len(points) == 0:
        raise NoConfidentPointsError("no pixel has a known depth with confidence, away from depth edges: no points")
    write_colored_points(path, points, colors)


def write_colored_points(path: str | Path, points: Float[Tensor, "n 3"], colors: UInt8[Tensor, "n 3"]) -> None:
    """Write points (in any unit) with their RGB colors to `path`: a binary PLY, or a GLB, by its ending.

    Coordinates are written as they are. Raises ``ValueError`` for another ending.
    """
    import trimesh

    ending = Path(path).suffix
    if ending not in (".ply", ".glb"):
        raise ValueError(f"points cannot be written to {Path(path).name}; wanted a name that ends in .ply or .glb")
    cloud = trimesh.PointCloud(points.detach().cpu().numpy(), colors=colors.cpu().numpy())
    encoded = cloud.export(file_type=ending.removeprefix("."))
    assert isinstance(encoded, bytes)
    Path(path).write_bytes(encoded)


def confident_points(
    scene: Scene, images: UInt8[Tensor, "time 3 height width"], max_points: int | None = None
) -> tuple[Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]:
    """World points of all frames that follow from confident depths, and their RGB colors in `images`.

    Left out are unknown depths, the least confident fifth, and depth edges (see the constants above). More than
    `max_points` are thinned evenly over frames and pixels, always the same way. Raises ``ValueError`` when the images
    are not at the scene's size or the scene is a batch.
    """
    if scene.batch_shape:
        raise ValueError(f"points are taken from one scene, given a batch of {tuple(scene.batch_shape)}")
    wanted = (scene.num_frames, 3, *scene.size)
    if images.shape != wanted:
        raise ValueError(f"images have shape {tuple(images.shape)}, wanted {wanted} as the scene's maps")
    if max_points is not None and max_points < 1:
        raise ValueError(f"max_points is {max_points}, wanted at least 1")

    chosen = confident_pixels(scene)
    return points_at(scene, images, chosen if max_points is None else thin(chosen, max_points))


def points_at(
    scene: Scene, images: UInt8[Tensor, "time 3 height width"], chosen: Bool[Tensor, "time height width"]
) -> tuple[Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]:
    """World points of the chosen pixels from their depths, frame by frame and row by row, and their RGB colors."""
    images = images.to(chosen.device)
    untracked = replace(scene, tracks=None)
    # One frame at a time: the points of a whole clip would fill the memory before most are dropped.
    points = [untracked.frames([frame]).points_from_depth[0][chosen[frame]] for frame in range(scene.num_frames)]
    colors = [images[frame].movedim(0, -1)[chosen[frame]] for frame in range(scene.num_frames)]
    return torch.cat(points), torch.cat(colors)


def confident_pixels(
    scene: Scene, percentile: float = CONFIDENCE_PERCENTILE, least: float = 0.0
) -> Bool[Tensor, "time height width"]:
    """Pixels of known depth and camera, away from depth edges, among the more confident of the known ones.

    The least confident `percentile` per cent are left out, and those below the confidence `least`.
    """
    is_known = (scene.depth_confidence > 0) & torch.isfinite(scene.depths) & (scene.depths > 0)
    has_camera = torch.isfinite(scene.cameras.world_from_cam).all(-1).all(-1)
    has_camera &= torch.isfinite(scene.cameras.intrinsics).all(-1).all(-1)
    is_known &= has_camera[:, None, None]
    if not is_known.any():
        return is_known
    # numpy: torch.quantile refuses more than 16 million values. "At least" keeps all where confidence is constant.
    threshold = np.percentile(scene.depth_confidence[is_known].detach().cpu().numpy(), percentile)
    is_believed = scene.depth_confidence >= max(float(threshold), least)
    return is_known & is_believed & ~is_depth_edge(scene.depths, is_known)
