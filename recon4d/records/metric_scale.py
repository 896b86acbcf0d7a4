"""Scenes in meters, by the length of their unit or by one distance that somebody measured."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import similarity
from recon4d.records.scene import Scene


def scaled(scene: Scene, factor: float) -> Scene:
    """The scene with every length `factor` times as many units; the unit's length in meters follows.

    Raises ``ValueError`` for a factor that is not finite and above 0.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"a scene cannot be scaled by {factor:g}; wanted a number above 0")
    like = scene.cameras.world_from_cam[..., 0, :3, :3]
    scale = torch.full_like(like[..., 0, 0], factor)
    identity = torch.eye(3, dtype=like.dtype, device=like.device).expand_as(like)
    return scene.transformed(similarity(scale, identity, torch.zeros_like(like[..., 0])))


def in_meters(scene: Scene, metres_per_unit: float) -> Scene:
    """The scene whose unit is the meter, where one of its present units is `metres_per_unit` meters long.

    What the scene says itself about its unit is not asked. Raises ``ValueError`` as `scaled` does.
    """
    metric = scaled(scene, metres_per_unit)
    return replace(metric, metres_per_unit=torch.ones_like(metric.metres_per_unit))


def in_meters_by_distance(
    scene: Scene, frame: int, pixel_a: tuple[int, int], pixel_b: tuple[int, int], meters: float
) -> Scene:
    """The scene whose unit is the meter, where two pixels of a frame see points `meters` apart.

    Pixels are whole (x, y) = (column, row) in the scene's maps; their points follow from depth and camera. Raises
    ``ValueError`` for pixels outside the maps, of unknown depth or at one place, and for a distance not above 0.
    """
    if scene.batch_shape:
        raise ValueError(f"wanted one scene, given a batch of {tuple(scene.batch_shape)}")
    if not (math.isfinite(meters) and meters > 0):
        raise ValueError(f"the known distance is {meters:g} m; wanted a number above 0")
    if not 0 <= frame < scene.num_frames:
        raise ValueError(f"there is no frame {frame}; wanted 0 to {scene.num_frames - 1}")
    units = float((_point_at(scene, frame, pixel_a) - _point_at(scene, frame, pixel_b)).norm())
    if not units > 0:
        raise ValueError(f"pixels {pixel_a} and {pixel_b} see one place; wanted two places")
    return in_meters(scene, meters / units)


def _point_at(scene: Scene, frame: int, pixel: tuple[int, int]) -> Float[Tensor, "3"]:
    (x, y), (height, width) = pixel, scene.size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"pixel {pixel} is not in maps of {width} x {height}; wanted (x, y)")
    if not scene.depth_confidence[frame, y, x] > 0:
        raise ValueError(f"the depth of pixel {pixel} of frame {frame} is unknown")
    return replace(scene, tracks=None).frames([frame]).points_from_depth[0, y, x]
