"""Fit of a rig, whose cameras are fixed to each other, to poses that were estimated independently."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from recon4d.geometry.rotations import nearest_rotation, rotation_angle
from recon4d.geometry.transforms import invert, rigid

ROUNDS = 20
"""Largest number of rounds that alternate between the poses of the cameras and those of the rig. Hand-tuned."""
CONVERGENCE = 1e-7
"""Change of any number of a relative pose below which a round is the last. Hand-tuned."""
MEDIAN_STEPS = 12
"""Steps of a geometric median (Weiszfeld 1937). Hand-tuned."""
MAX_CONTRADICTION = math.radians(10)
"""Largest median angle between given poses and known relative poses in radians; above, only the motion of each
camera by itself is believed. Hand-tuned: a network places views that share little with each other at any angle."""
SMOOTHING = 0.2
"""Distance below which values count about equally, as a fraction of their median distance from the median value.
Hand-tuned: without it, one of two values would be the median of both."""
_TINY = 1e-30


@dataclass(frozen=True)
class RigFit:
    """A rig, and how far independent poses differ from it."""

    world_from_cam: Float64[Tensor, "time 4 4"]
    """Pose of each frame if the cameras are fixed to each other."""
    rig_from_cam: Float64[Tensor, "camera 4 4"]
    """Pose of each camera relative to the rig, which is the frame of the first camera."""
    world_from_rig: Float64[Tensor, "moment 4 4"]
    """Pose of the rig at each moment."""
    angles: Float64[Tensor, " time"]
    """Angle between the given and the fitted rotation of each frame, in radians; 0 for frames that are not known."""
    distances: Float64[Tensor, " time"]
    """Distance between the given and the fitted center of each frame, in units; 0 for frames that are not known."""


def fit_rig(
    world_from_cam: Float[Tensor, "time 4 4"],
    cameras: Int64[Tensor, " time"],
    moments: Int64[Tensor, " time"],
    is_known: Bool[Tensor, " time"],
    known_poses: Float64[Tensor, "camera 4 4"] | None = None,
) -> RigFit:
    """Fit the relative poses of the cameras and the pose of the rig at each moment, robustly.

    Poses of cameras relative to the rig, and of the rig in the world, are medians in turn: the geometric median of
    centers, and the median of rotations by the angles between them. A minority of wrong poses does not bias them.

    Args:
        world_from_cam: Pose of each frame, of shape (time, 4, 4).
        cameras: Camera of each frame, from 0.
        moments: Moment of each frame, from 0.
        is_known: Frames whose poses count. The others get theirs from the rig.
        known_poses: Poses relative to the rig if they are known; only the poses of the rig are fitted then.

    Returns:
        The fitted rig. Cameras that are never known together with others keep their first pose relative to the rig.
    """
    poses = world_from_cam.double()
    num_cameras, num_moments = int(cameras.max()) + 1, int(moments.max()) + 1
    if known_poses is not None:
        rig_from_cam = known_poses
        world_from_rig = _rig_at_moments(poses, cameras, moments, is_known, rig_from_cam, num_moments)
        fitted = world_from_rig[moments] @ rig_from_cam[cameras]
        if float(rotation_angle(fitted[:, :3, :3].mT @ poses[:, :3, :3])[is_known].median()) > MAX_CONTRADICTION:
            world_from_rig = _rig_by_motion(poses, cameras, moments, is_known, rig_from_cam, world_from_rig)
    else:
        rig_from_cam = _initial_cameras(poses, cameras, moments, is_known, num_cameras)
        for _ in range(ROUNDS):
            world_from_rig = _rig_at_moments(poses, cameras, moments, is_known, rig_from_cam, num_moments)
            relative = invert(world_from_rig[moments]) @ poses
            before = rig_from_cam
            rig_from_cam = torch.stack(
                [
                    _median_pose(relative[chosen]) if (chosen := is_known & (cameras == camera)).any() else pose
                    for camera, pose in enumerate(rig_from_cam)
                ]
            )
            rig_from_cam = invert(rig_from_cam[:1]) @ rig_from_cam
            if (rig_from_cam - before).abs().max() < CONVERGENCE:
                break
        world_from_rig = _rig_at_moments(poses, cameras, moments, is_known, rig_from_cam, num_moments)
    fitted = world_from_rig[moments] @ rig_from_cam[cameras]
    angles = rotation_angle(fitted[:, :3, :3].mT @ poses[:, :3, :3])
    distances = (fitted[:, :3, 3] - poses[:, :3, 3]).norm(dim=-1)
    return RigFit(
        fitted, rig_from_cam, world_from_rig, torch.where(is_known, angles, 0.0), torch.where(is_known, distances, 0.0)
    )


def _rig_by_motion(
    poses: Tensor, cameras: Tensor, moments: Tensor, is_known: Tensor, rig_from_cam: Tensor, fallback: Tensor
) -> Tensor:
    """The pose of the rig at each moment relative to the first, by the motion of each camera alone.

    It does not compare different cameras, whose predicted directions contradict the known ones. Moments without a
    camera that is known at the first moment keep `fallback`.
    """
    first = int(moments[is_known].min()) if is_known.any() else 0
    start = {int(cameras[frame]): frame for frame in (is_known & (moments == first)).nonzero()[:, 0].tolist()}
    world_from_rig = fallback.clone()
    for moment in range(len(fallback)):
        motions = [
            rig_from_cam[camera] @ invert(poses[start[camera]]) @ poses[frame] @ invert(rig_from_cam[camera])
            for frame in (is_known & (moments == moment)).nonzero()[:, 0].tolist()
            if (camera := int(cameras[frame])) in start
        ]
        if motions:
            world_from_rig[moment] = fallback[first] @ _median_pose(torch.stack(motions))
    return world_from_rig


def _initial_cameras(poses: Tensor, cameras: Tensor, moments: Tensor, is_known: Tensor, num_cameras: int) -> Tensor:
    """Place cameras one after the other by the moments that they share with those already placed."""
    rig_from_cam = torch.eye(4, dtype=torch.float64).repeat(num_cameras, 1, 1)
    is_placed = torch.zeros(num_cameras, dtype=torch.bool)
    is_placed[0] = True
    for _ in range(num_cameras):
        for camera in (~is_placed).nonzero()[:, 0].tolist():
            relative = [
                rig_from_cam[cameras[other]] @ invert(poses[other]) @ poses[frame]
                for frame in (is_known & (cameras == camera)).nonzero()[:, 0].tolist()
                for other in (is_known & is_placed[cameras] & (moments == moments[frame])).nonzero()[:, 0].tolist()
            ]
            if relative:
                rig_from_cam[camera], is_placed[camera] = _median_pose(torch.stack(relative)), True
    for camera in (~is_placed).nonzero()[:, 0].tolist():
        frame = int((cameras == camera).nonzero()[0, 0]) if (cameras == camera).any() else None
        same_moment = [] if frame is None else (is_placed[cameras] & (moments == moments[frame])).nonzero()[:, 0]
        if frame is not None and len(same_moment):
            other = int(same_moment[0])
            rig_from_cam[camera] = rig_from_cam[cameras[other]] @ invert(poses[other]) @ poses[frame]
    return rig_from_cam


def _rig_at_moments(
    poses: Tensor, cameras: Tensor, moments: Tensor, is_known: Tensor, rig_from_cam: Tensor, num_moments: int
) -> Tensor:
    """The pose of the rig at each moment; moments without a known frame use their frames that are not known."""
    world_from_rig = poses @ invert(rig_from_cam[cameras])
    found = torch.eye(4, dtype=torch.float64).repeat(num_moments, 1, 1)
    for moment in range(num_moments):
        at_moment = moments == moment
        chosen = at_moment & is_known if (at_moment & is_known).any() else at_moment
        if chosen.any():
            found[moment] = _median_pose(world_from_rig[chosen])
    return found


def _median_pose(poses: Float64[Tensor, "n 4 4"]) -> Float64[Tensor, "4 4"]:
    """The median of rotations and of centers, each by iteratively reweighted means."""
    if len(poses) == 1:
        return poses[0]
    rotations, centers = poses[:, :3, :3], poses[:, :3, 3]
    rotation, center = nearest_rotation(rotations.mean(dim=0)), centers.quantile(0.5, dim=0)
    for _ in range(MEDIAN_STEPS):
        weights = _median_weights(rotation_angle(rotation.mT @ rotations))
        rotation = nearest_rotation((weights[:, None, None] * rotations).sum(dim=0))
        center = (_median_weights((centers - center).norm(dim=-1))[:, None] * centers).sum(dim=0)
    return rigid(rotation, center)


def _median_weights(distances: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Weights of values in the next mean, of sum 1: the inverse of their distances from the last one."""
    weights = 1 / (distances + SMOOTHING * distances.quantile(0.5) + _TINY)
    return weights / weights.sum()
