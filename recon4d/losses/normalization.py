"""Normalization of ground truth to the unit of the network: the mean distance of points from the first camera."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import invert, similarity
from recon4d.records import Scene, full_precision

MAX_RELATIVE_DISTANCE = 10.0
"""Upper bound of a point's distance relative to the median; limits the effect of far background. Hand-tuned."""
MIN_SCALE = 1e-6
"""Mean distances up to this are rounding errors of a static camera and define no scale."""


def scene_scale(truth: Scene) -> Float[Tensor, "*batch"]:
    """Compute the mean distance of the known points from the center of the first camera.

    Each distance is clamped to `MAX_RELATIVE_DISTANCE` times the median distance. If no point is known, the scale is
    the mean distance of the other known cameras from the first; if that is unknown or 0 too, it is 1. The origin
    replaces an unknown first camera.

    Args:
        truth: True scene.

    Returns:
        The scale in the unit of the scene.
    """
    centers = full_precision(truth.cameras.centers)
    first = centers[..., :1, :]
    first = torch.where(torch.isfinite(first), first, torch.zeros_like(first))

    points = full_precision(truth.points)
    known = (truth.point_confidence > 0) & torch.isfinite(points).all(dim=-1)
    distances = (points - first[..., None, None, :]).norm(dim=-1)
    of_points = _capped_mean(distances.flatten(-3), known.flatten(-3))

    has_camera = torch.isfinite(centers).all(dim=-1)
    of_cameras = _mean((centers - first).norm(dim=-1)[..., 1:], has_camera[..., 1:])
    scale = torch.where(of_points > MIN_SCALE, of_points, of_cameras)
    return torch.where(scale > MIN_SCALE, scale, torch.ones_like(scale))


def normalized(truth: Scene) -> Scene:
    """Divide all lengths of a scene by its `scene_scale`, and make the first camera the world frame.

    Args:
        truth: True scene. If its first camera is unknown, the world frame is kept.

    Returns:
        The normalized scene, with unknown points at the origin.
    """
    scale = scene_scale(truth)
    first = truth.cameras.world_from_cam[..., 0, :, :]
    known = torch.isfinite(first).all(dim=-1).all(dim=-1)[..., None, None]
    identity = torch.eye(4, dtype=first.dtype, device=first.device).expand_as(first)
    with torch.autocast(first.device.type, enabled=False):
        new_from_first = similarity(1 / scale, identity[..., :3, :3], torch.zeros_like(first[..., :3, 3]))
        scene = truth.transformed(new_from_first @ invert(torch.where(known, first, identity)))
    # The first camera is the identity up to rounding; make it exact.
    world_from_cam = scene.cameras.world_from_cam
    start = torch.where(known, identity, world_from_cam[..., 0, :, :])[..., None, :, :]
    world_from_cam = torch.cat([start, world_from_cam[..., 1:, :, :]], dim=-3)
    return replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam)).zero_unknown_points()


def in_predicted_unit(truth: Scene, depths: Float[Tensor, "batch time height width"]) -> Scene:
    """Scale true scenes to the unit of predicted depth, for the training of motion on depth that is frozen.

    Args:
        truth: A batch of true scenes.
        depths: Predicted depth of the same pixels; it receives no gradient.

    Returns:
        The scenes, multiplied by the median ratio of predicted to true depth; unchanged without known depth.
    """
    known = (truth.depth_confidence > 0) & (truth.depths > 0)
    ratios = torch.where(known, full_precision(depths.detach()) / full_precision(truth.depths), torch.nan)
    scale = ratios.flatten(1).nanmedian(dim=1).values
    return truth.scaled(torch.where(scale.isfinite() & (scale > 0), scale, 1.0))


def _capped_mean(values: Float[Tensor, "*batch n"], known: Bool[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Average the known values, each at most `MAX_RELATIVE_DISTANCE` times their lower median; 0 if none are known."""
    ordered = torch.where(known, values, torch.inf).sort(dim=-1).values
    middle = (known.sum(dim=-1, keepdim=True) - 1).clamp(min=0) // 2
    median = torch.take_along_dim(ordered, middle, dim=-1)
    return _mean(torch.minimum(values, MAX_RELATIVE_DISTANCE * median), known)


def _mean(values: Float[Tensor, "*batch n"], known: Bool[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Average the known values; 0 if none are known."""
    total = torch.where(known, values, torch.zeros_like(values)).sum(dim=-1)
    return total / known.sum(dim=-1).clamp(min=1)
