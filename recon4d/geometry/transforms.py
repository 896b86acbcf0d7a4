"""Rigid transforms and similarities as 4x4 matrices named ``b_from_a``, so that neighbors cancel in a product."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def similarity(
    scale: Float[Tensor, "*batch"],
    rotation: Float[Tensor, "*batch 3 3"],
    translation: Float[Tensor, "*batch 3"],
) -> Float[Tensor, "*batch 4 4"]:
    """``b_from_a`` with x_b = scale * rotation @ x_a + translation."""
    upper = torch.cat([scale[..., None, None] * rotation, translation[..., None]], dim=-1)
    lower = torch.zeros_like(upper[..., :1, :])
    lower[..., 3] = 1
    return torch.cat([upper, lower], dim=-2)


def rigid(rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """``b_from_a`` with x_b = rotation @ x_a + translation."""
    return similarity(torch.ones_like(translation[..., 0]), rotation, translation)


def similarity_scale(b_from_a: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch"]:
    """The scale of a similarity; 1 for a rigid transform."""
    return b_from_a[..., :3, :3].square().sum(dim=(-1, -2)).div(3).sqrt()


def invert(b_from_a: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """``a_from_b`` of a rigid transform or a similarity: (sR)^-1 = R^T / s, with no linear system solved."""
    linear = b_from_a[..., :3, :3]
    squared_scale = linear.square().sum(dim=(-1, -2)) / 3
    inverse_linear = linear.transpose(-1, -2) / squared_scale[..., None, None]
    translation = -(inverse_linear @ b_from_a[..., :3, 3:])[..., 0]
    return similarity(torch.ones_like(squared_scale), inverse_linear, translation)


def transform_points(
    b_from_a: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch_and_points 3"]
) -> Float[Tensor, "*batch_and_points 3"]:
    """Points in coordinates of b. `points` has the batch axes of `b_from_a` and then any further axes (n, or h w)."""
    batch = b_from_a.shape[:-2]
    flat = points.reshape(*batch, -1, 3)
    moved = flat @ b_from_a[..., :3, :3].transpose(-1, -2) + b_from_a[..., None, :3, 3]
    return moved.reshape(points.shape)


def rebase_cameras(
    new_from_world: Float[Tensor, "*batch 4 4"], world_from_cam: Float[Tensor, "*batch time 4 4"]
) -> Float[Tensor, "*batch time 4 4"]:
    """Rigid ``new_from_cam`` under a similarity of the world: centers are scaled, rotations stay rotations."""
    new_from_cam = new_from_world[..., None, :, :] @ world_from_cam
    rotation = new_from_cam[..., :3, :3] / similarity_scale(new_from_world)[..., None, None, None]
    return rigid(rotation, new_from_cam[..., :3, 3])


def given_or_beside(
    predicted: Float[Tensor, "time 4 4"], given: Float[Tensor, "time 4 4"], is_given: Bool[Tensor, "time"]
) -> Float[Tensor, "time 4 4"]:
    """Given cameras, and others where they were predicted beside the nearest frame (by number) that has one."""
    frames, given_frames = torch.arange(len(given)), is_given.nonzero()[:, 0]
    nearest = given_frames[(frames[:, None] - given_frames).abs().argmin(dim=1)]
    beside = given[nearest] @ invert(predicted[nearest]) @ predicted
    return torch.where(is_given[:, None, None], given, beside)
