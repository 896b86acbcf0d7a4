"""What was known about a clip is true in the answer: given intrinsics and cameras replace the predicted ones.

A network is told what is known and still answers something a little different, or cannot be told at all. Everything it
saw stays at its pixel: each frame's points follow their camera and their lens, and depth keeps its order. What was not
given follows what was: the scale from given depth or given cameras, unknown cameras from the nearest given one.
"""

import math
import warnings
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import given_or_beside, invert, similarity
from recon4d.records import Priors, Scene

LEAST_MOTION = 1e-3
"""Of the median depth: predicted cameras that move less than this do not tell a scale."""


def apply_priors(scene: Scene, known: Priors | None) -> Scene:
    """The scene, whose world is its first camera, with what is `known` about pictures of its size made true.

    - Intrinsics are the given ones where they are given. A point keeps its pixel and its z.
    - Cameras are the given ones in the first camera's frame. One that is not given keeps its predicted place beside
      the nearest frame (by number) that is. Points and tracks at each time follow the camera of that time.
    - The unit is that of the given depth: the median of given over predicted depth. Without depth it is that of the
      given cameras: the s with the least sum of |predicted distance - given distance / s| over all pairs of cameras,
      which a quarter of cameras predicted wrong does not pull away. Where neither tells (cameras that stand still),
      the unit is the network's.

    The scene itself where nothing is known. Confidences do not change. Warns where predicted cameras hardly move and
    the given ones therefore cannot fix the scale.
    """
    if known is None:
        return scene
    knows_lens, knows_camera = (
        values.isfinite().all(dim=(1, 2)) for values in (known.intrinsics, known.world_from_cam)
    )
    scale = _scale_of_depth(scene, known.depths)
    if not (knows_lens.any() or knows_camera.any() or scale is not None):
        return scene
    given = _from_first(known.world_from_cam)
    if scale is None and knows_camera.any():
        scale = _scale_of_cameras(scene, given, knows_camera)
    if scale is not None:
        scene = scene.transformed(_scaling(scale).to(scene.depths))

    cameras = scene.cameras
    if knows_lens.any():
        intrinsics = torch.where(knows_lens[:, None, None], known.intrinsics, cameras.intrinsics)
        cameras = replace(cameras, intrinsics=intrinsics.to(cameras.intrinsics))
    if knows_camera.any():
        world_from_cam = given_or_beside(cameras.world_from_cam.double(), given, knows_camera)
        cameras = replace(cameras, world_from_cam=world_from_cam.to(cameras.world_from_cam))
    return scene if cameras is scene.cameras else scene.with_cameras(cameras)


def _from_first(world_from_cam: Float[Tensor, "time 4 4"]) -> Float[Tensor, "time 4 4"]:
    """In the first camera's world, in float64; the first is the identity without rounding."""
    world_from_cam = world_from_cam.double()
    from_first = invert(world_from_cam[0]) @ world_from_cam
    from_first[0] = torch.where(world_from_cam[0].isfinite(), torch.eye(4).double(), torch.nan)
    return from_first


def _scale_of_depth(scene: Scene, given: Float[Tensor, "time height width"] | None) -> float | None:
    """The median of given over predicted depth where both are known; None without a pixel."""
    if given is None:
        return None
    both = given.isfinite() & (given > 0) & (scene.depth_confidence > 0) & (scene.depths > 0)
    return float((given[both].double() / scene.depths[both].double()).median()) if both.any() else None


def _scale_of_cameras(scene: Scene, given: Float[Tensor, "time 4 4"], is_known: Bool[Tensor, "time"]) -> float | None:
    """The scale between the distances of given and of predicted cameras; None where they do not tell."""
    centers = given[is_known, :3, 3]
    scale = scene.cameras.frames(is_known.nonzero()[:, 0]).scale_to(centers)
    if math.isnan(scale):
        return None
    if torch.pdist(centers).max() / scale <= LEAST_MOTION * scene.depths.median():
        warnings.warn("the predicted cameras hardly move, so the given ones do not fix the scale", stacklevel=2)
        return None
    return scale


def _scaling(scale: float) -> Float[Tensor, "4 4"]:
    return similarity(torch.tensor(scale), torch.eye(3), torch.zeros(3))
