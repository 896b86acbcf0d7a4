"""Enforcement of a rig in a predicted scene: its cameras are fixed to each other, and each has the same intrinsics."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import fit_rig
from recon4d.records import Clip, Rig, Scene


@dataclass(frozen=True)
class FixedRig:
    """A scene whose cameras are fixed to each other."""

    scene: Scene
    """The scene in the world of its first camera."""
    report: str = ""
    """What was fixed and how far the predicted poses differ from it, in a line for the user; "" without a rig."""


def apply_rig(scene: Scene, clip: Clip) -> FixedRig:
    """Fix the cameras of a rig to each other in a predicted scene.

    The rig is fitted to the predicted poses (`recon4d.geometry.fit_rig`); depth and pixels do not change. Intrinsics
    that are not given become the median over the frames of their camera, if the rig says that it has one.

    Args:
        scene: The predicted scene, with the priors of the clip enforced.
        clip: Its clip. Poses that are given are kept.

    Returns:
        The scene; `scene` itself if the clip has no rig.
    """
    rig, priors = clip.rig, clip.priors
    if rig is None:
        return FixedRig(scene)
    cameras = scene.cameras
    if rig.has_shared_intrinsics and (priors is None or not priors.intrinsics.isfinite().all()):
        cameras = replace(cameras, intrinsics=shared_intrinsics(cameras.intrinsics, rig))
    if priors is not None and (has_pose := priors.world_from_cam.isfinite().all(dim=(1, 2))).any():
        report = f"rig: poses of {int(has_pose.sum())} of {len(has_pose)} frames are given and kept; nothing is fixed"
        return FixedRig(scene.with_cameras(cameras), "" if has_pose.all() else report)
    numbers, moments = torch.tensor(rig.cameras), torch.tensor(rig.moments)
    is_known = torch.ones(len(numbers), dtype=torch.bool)
    fit = fit_rig(cameras.world_from_cam, numbers, moments, is_known, rig.known_poses)
    fixed = scene.with_cameras(replace(cameras, world_from_cam=fit.world_from_cam)).in_frame(0)
    has_depth = scene.depth_confidence > 0
    depth = float(scene.depths[has_depth].median()) if has_depth.any() else math.nan
    angle = math.degrees(float(fit.angles.median()))
    residual = describe_residual(angle, float(fit.distances.median()) / depth)
    return FixedRig(fixed, f"{describe_rig(rig)}; the predicted ones differ by {residual} (median)")


def describe_rig(rig: Rig) -> str:
    """Describe what a rig fixes.

    Args:
        rig: The rig.

    Returns:
        The beginning of a line for the user.
    """
    kind = "estimated" if rig.rig_from_cam is None else "known"
    lens = ", each with one set of intrinsics" if rig.has_shared_intrinsics else ""
    return (
        f"rig: {len(set(rig.cameras))} cameras at {len(set(rig.moments))} moments are fixed to each other, with "
        f"{kind} relative poses{lens}"
    )


def describe_residual(angle: float, distance: float) -> str:
    """Describe how far independent cameras differ from a rig.

    Args:
        angle: Angle in degrees.
        distance: Distance as a fraction of the median depth; NaN if no depth is known.

    Returns:
        A phrase.
    """
    return f"{angle:.2g} degrees" + ("" if math.isnan(distance) else f" and {100 * distance:.2g} % of the median depth")


def shared_intrinsics(intrinsics: Float[Tensor, "time 3 3"], rig: Rig) -> Float[Tensor, "time 3 3"]:
    """Give all frames of each camera the median of their intrinsics.

    Args:
        intrinsics: Intrinsics of all frames.
        rig: The rig.

    Returns:
        The shared intrinsics of each frame.
    """
    numbers, shared = torch.tensor(rig.cameras), intrinsics.clone()
    for camera in set(rig.cameras):
        own = intrinsics[numbers == camera]
        shared[numbers == camera] = own.double().quantile(0.5, dim=0).to(own)
    return shared
