"""Conversion of scenes to meters, by a given unit length or by one measured distance."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import similarity
from recon4d.records.cameras import Cameras
from recon4d.records.scene import Scene


def scale_scene(scene: Scene, factor: float) -> Scene:
    """Multiply all lengths of a scene by a factor.

    Args:
        scene: A scene or a batch of scenes.
        factor: Positive factor. `Scene.metres_per_unit` is divided by it, so lengths in meters stay the same.

    Returns:
        The scaled scene.

    Raises:
        UserError: If `factor` is not finite and above 0.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise UserError(f"a scene cannot be scaled by {factor:g}; wanted a finite number above 0")
    return scale_scenes(scene, torch.full_like(scene.cameras.world_from_cam[..., 0, 0, 0], factor))


def scale_scenes(scene: Scene, factors: Float[Tensor, "*batch"]) -> Scene:
    """Multiply all lengths of each scene of a batch by a factor.

    Args:
        scene: A scene or a batch of scenes.
        factors: Positive factor of each scene. `Scene.metres_per_unit` is divided by it.

    Returns:
        The scaled scenes.
    """
    like = scene.cameras.world_from_cam[..., 0, :3, :3]
    identity = torch.eye(3, dtype=like.dtype, device=like.device).expand_as(like)
    return scene.transformed(similarity(factors.to(like.dtype), identity, torch.zeros_like(like[..., 0])))


def convert_to_meters(scene: Scene, metres_per_unit: float) -> Scene:
    """Convert a scene to meters by a given length of its unit.

    Args:
        scene: A scene or a batch of scenes. Its own `metres_per_unit` is ignored.
        metres_per_unit: Length of the current unit of the scene in meters, above 0.

    Returns:
        The scene in meters, with `metres_per_unit` equal to 1.

    Raises:
        UserError: If `metres_per_unit` is not finite and above 0.
    """
    metric = scale_scene(scene, metres_per_unit)
    return replace(metric, metres_per_unit=torch.ones_like(metric.metres_per_unit))


def metres_per_unit_of_baseline(cameras: Cameras, first: int, second: int, meters: float) -> float:
    """Compute the length of the unit from the measured distance between two cameras.

    Args:
        cameras: Cameras of a single scene (no batch axis).
        first: Index of one frame.
        second: Index of another frame.
        meters: Distance between their camera centers in meters, above 0.

    Returns:
        Length of the unit in meters.

    Raises:
        UserError: If a frame does not exist or has no known camera, if the two cameras are at the same place, or if
            `meters` is not finite and above 0.
    """
    count = len(cameras.world_from_cam)
    if not (0 <= first < count and 0 <= second < count and first != second):
        raise UserError(f"the baseline is between the frames {first} and {second}; wanted two of 0 to {count - 1}")
    if not (math.isfinite(meters) and meters > 0):
        raise UserError(f"the baseline is {meters:g} m long; wanted a finite number above 0")
    distance = float((cameras.centers[first].double() - cameras.centers[second].double()).norm())
    if not (math.isfinite(distance) and distance > 0):
        raise UserError(f"the distance between the cameras of the frames {first} and {second} is {distance:g} units")
    return meters / distance


def convert_to_meters_by_distance(
    scene: Scene, frame: int, pixel_a: tuple[int, int], pixel_b: tuple[int, int], meters: float
) -> Scene:
    """Convert a scene to meters by the measured distance between the points at two pixels of a frame.

    Args:
        scene: A single scene (no batch axis).
        frame: Index of the frame.
        pixel_a: First pixel (column, row) in the maps of the scene. Its point follows from depth and camera.
        pixel_b: Second pixel (column, row).
        meters: Distance between the two points in meters, above 0.

    Returns:
        The scene in meters, with `metres_per_unit` equal to 1.

    Raises:
        UserError: If the frame does not exist, if a pixel is outside the maps or has unknown depth, if both points
            coincide, or if `meters` is not finite and above 0.
        ValueError: If `scene` has a batch axis.
    """
    if scene.batch_shape:
        raise ValueError(f"wanted a single scene, given a batch of shape {tuple(scene.batch_shape)}")
    if not (math.isfinite(meters) and meters > 0):
        raise UserError(f"the measured distance is {meters:g} m; wanted a finite number above 0")
    if not 0 <= frame < scene.num_frames:
        raise UserError(f"frame {frame} does not exist; wanted 0 to {scene.num_frames - 1}")
    units = float((_point_at(scene, frame, pixel_a) - _point_at(scene, frame, pixel_b)).norm())
    if not units > 0:
        raise UserError(f"pixels {pixel_a} and {pixel_b} show the same point; wanted two different points")
    return convert_to_meters(scene, meters / units)


def _point_at(scene: Scene, frame: int, pixel: tuple[int, int]) -> Float[Tensor, "3"]:
    (x, y), (height, width) = pixel, scene.size
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f"pixel {pixel} is outside maps of {width} x {height} pixels; wanted (column, row)")
    if not scene.depth_confidence[frame, y, x] > 0:
        raise UserError(f"the depth of pixel {pixel} of frame {frame} is unknown")
    return replace(scene, tracks=None).frames([frame]).points_from_depth[0, y, x]
