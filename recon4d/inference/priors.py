"""Enforcement of priors in a predicted scene: given intrinsics and cameras replace the predicted ones.

A network that receives priors predicts them only approximately, and some networks cannot receive them. Points stay at
their pixels: each frame's points follow its camera and intrinsics, and depth is scaled as a whole. Quantities that are
not given follow those that are: the scale from given depth or cameras, unknown cameras from the nearest given one.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import fill_missing_cameras, invert, robust_path_scale, similarity
from recon4d.records import Priors, Scene

MIN_CAMERA_MOTION = 1e-3
"""Smallest distance between predicted cameras that determines a scale, as a fraction of median depth. Hand-tuned."""


CameraScale = Callable[[Float[Tensor, "time 3"], Float[Tensor, "time 3"]], float]
"""Function of predicted and given camera centers that returns the factor from predicted to given lengths: NaN if the
given centers do not determine it, infinity if the predicted centers coincide."""


def apply_priors(scene: Scene, priors: Priors | None, camera_scale: CameraScale = robust_path_scale) -> Scene:
    """Replace predicted quantities of a scene by the given ones.

    - Given intrinsics replace the predicted ones. Each point keeps its pixel and its z.
    - Given cameras replace the predicted ones, relative to the first camera. A camera that is not given, the first
      included, keeps its predicted pose relative to the nearest given frame (by number). Points and tracks at each time
      follow the camera of that time.
    - The unit is that of the given depth: the scale is the median of given over predicted depth. Without depth it is
      that of the given cameras: the scale s minimizes the sum of |predicted distance - given distance / s| over all
      pairs of cameras, which tolerates a quarter of wrong predictions. If neither determines a scale, as for a static
      camera, the unit of the network is kept.

    Confidences do not change. Warns if the predicted cameras hardly move, so that the given ones do not determine the
    scale.

    Args:
        scene: The predicted scene; its world is its first camera.
        priors: Priors of the clip at the size of the scene's maps.
        camera_scale: How the scale follows from given cameras.

    Returns:
        The scene with its priors enforced; `scene` itself if nothing is given.
    """
    if priors is None:
        return scene
    has_intrinsics, has_camera = (
        values.isfinite().all(dim=(1, 2)) for values in (priors.intrinsics, priors.world_from_cam)
    )
    scale = _scale_from_depth(scene, priors.depths)
    if not (has_intrinsics.any() or has_camera.any() or scale is not None):
        return scene
    given = _relative_to(priors.world_from_cam, int(has_camera.nonzero()[0])) if has_camera.any() else None
    if scale is None and given is not None:
        scale = _scale_from_cameras(scene, given, has_camera, camera_scale)
    if scale is not None:
        scene = scene.transformed(_scaling(scale).to(scene.depths))

    cameras = scene.cameras
    if has_intrinsics.any():
        intrinsics = torch.where(has_intrinsics[:, None, None], priors.intrinsics, cameras.intrinsics)
        cameras = replace(cameras, intrinsics=intrinsics.to(cameras.intrinsics))
    if given is not None:
        world_from_cam = fill_missing_cameras(cameras.world_from_cam.double(), given, has_camera)
        if not has_camera[0]:
            world_from_cam = _relative_to(world_from_cam, 0)
        cameras = replace(cameras, world_from_cam=world_from_cam.to(cameras.world_from_cam))
    return scene if cameras is scene.cameras else scene.with_cameras(cameras)


def _relative_to(world_from_cam: Float[Tensor, "time 4 4"], frame: int) -> Float[Tensor, "time 4 4"]:
    """Transform cameras to the frame of one of them, in float64; that one is exactly the identity."""
    world_from_cam = world_from_cam.double()
    relative = invert(world_from_cam[frame]) @ world_from_cam
    relative[frame] = torch.eye(4)
    return relative


def _scale_from_depth(scene: Scene, given: Float[Tensor, "time height width"] | None) -> float | None:
    """Return the median of given over predicted depth; None if no pixel has both."""
    if given is None:
        return None
    both = given.isfinite() & (given > 0) & (scene.depth_confidence > 0) & (scene.depths > 0)
    return float((given[both].double() / scene.depths[both].double()).median()) if both.any() else None


def _scale_from_cameras(
    scene: Scene, given: Float[Tensor, "time 4 4"], is_given: Bool[Tensor, "time"], camera_scale: CameraScale
) -> float | None:
    """Return the scale from predicted to given camera distances; None if the cameras do not determine it."""
    centers = given[is_given, :3, 3]
    scale = camera_scale(scene.cameras.centers[is_given], centers)
    if math.isnan(scale):
        return None
    if torch.pdist(centers).max() / scale <= MIN_CAMERA_MOTION * scene.depths.median():
        warnings.warn(
            "the predicted cameras hardly move, so the given cameras do not determine the scale", stacklevel=2
        )
        return None
    return scale


def _scaling(scale: float) -> Float[Tensor, "4 4"]:
    return similarity(torch.tensor(scale), torch.eye(3), torch.zeros(3))
