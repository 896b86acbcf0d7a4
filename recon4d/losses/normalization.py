"""Truth in the unit of the network: lengths over the mean distance of the scene, in the first camera's world."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import invert, similarity
from recon4d.records import Scene, full_precision

FAR = 10.0
"""A point counts as at most this many median distances away: a mountain must not shrink the table before it."""
NO_LENGTH = 1e-6
"""Mean distances at or below this are rounding errors of a camera that stands still, and no unit."""


def scene_scale(truth: Scene) -> Float[Tensor, "*batch"]:
    """Mean distance of the known points from the first camera's center, each at most `FAR` times their median.

    In the scene's own unit. Where no point is known, the mean distance of the other known cameras from the first; 1
    where that says nothing either. The world's origin stands in for an unknown first camera.
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
    scale = torch.where(of_points > NO_LENGTH, of_points, of_cameras)
    return torch.where(scale > NO_LENGTH, scale, torch.ones_like(scale))


def normalized(truth: Scene) -> Scene:
    """`truth` with all lengths over its `scene_scale`, in the world whose origin is the first camera.

    Where the first camera is unknown the world stays where it is.
    """
    scale = scene_scale(truth)
    first = truth.cameras.world_from_cam[..., 0, :, :]
    known = torch.isfinite(first).all(dim=-1).all(dim=-1)[..., None, None]
    identity = torch.eye(4, dtype=first.dtype, device=first.device).expand_as(first)
    with torch.autocast(first.device.type, enabled=False):
        new_from_first = similarity(1 / scale, identity[..., :3, :3], torch.zeros_like(first[..., :3, 3]))
        scene = truth.transformed(new_from_first @ invert(torch.where(known, first, identity)))
    # The first camera is the identity up to rounding; say so exactly.
    world_from_cam = scene.cameras.world_from_cam
    start = torch.where(known, identity, world_from_cam[..., 0, :, :])[..., None, :, :]
    world_from_cam = torch.cat([start, world_from_cam[..., 1:, :, :]], dim=-3)
    return replace(scene, cameras=replace(scene.cameras, world_from_cam=world_from_cam)).zero_unknown_points()


def _capped_mean(values: Float[Tensor, "*batch n"], known: Bool[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """The mean of the known values, each at most `FAR` times their (lower) median; 0 where nothing is known."""
    ordered = torch.where(known, values, torch.inf).sort(dim=-1).values
    middle = (known.sum(dim=-1, keepdim=True) - 1).clamp(min=0) // 2
    median = torch.take_along_dim(ordered, middle, dim=-1)
    return _mean(torch.minimum(values, FAR * median), known)


def _mean(values: Float[Tensor, "*batch n"], known: Bool[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    total = torch.where(known, values, torch.zeros_like(values)).sum(dim=-1)
    return total / known.sum(dim=-1).clamp(min=1)
