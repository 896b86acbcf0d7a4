"""Rigid transforms and similarities as 4x4 matrices.

A transform is named ``b_from_a``: it maps homogeneous column vectors in coordinates of frame a to coordinates of frame
b, x_b = b_from_a @ x_a. Neighboring names cancel in a product: ``c_from_b @ b_from_a`` is ``c_from_a``. The upper left
3x3 block of a similarity is scale * rotation.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def similarity(
    scale: Float[Tensor, "*batch"],
    rotation: Float[Tensor, "*batch 3 3"],
    translation: Float[Tensor, "*batch 3"],
) -> Float[Tensor, "*batch 4 4"]:
    """Compose a similarity transform: x_b = scale * rotation @ x_a + translation.

    Args:
        scale: Length of a unit of a, in units of b.
        rotation: Rotation matrices from a to b.
        translation: Origin of a in coordinates of b.

    Returns:
        ``b_from_a``.
    """
    upper = torch.cat([scale[..., None, None] * rotation, translation[..., None]], dim=-1)
    lower = torch.zeros_like(upper[..., :1, :])
    lower[..., 3] = 1
    return torch.cat([upper, lower], dim=-2)


def rigid(rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """Compose a rigid transform: x_b = rotation @ x_a + translation.

    Args:
        rotation: Rotation matrices from a to b.
        translation: Origin of a in coordinates of b.

    Returns:
        ``b_from_a``.
    """
    return similarity(torch.ones_like(translation[..., 0]), rotation, translation)


def similarity_scale(b_from_a: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch"]:
    """Compute the scale of similarities.

    Args:
        b_from_a: Similarities or rigid transforms.

    Returns:
        Units of b per unit of a; 1 for a rigid transform.
    """
    return b_from_a[..., :3, :3].square().sum(dim=(-1, -2)).div(3).sqrt()


def invert(b_from_a: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Invert rigid transforms or similarities in closed form: (sR)^-1 = R^T / s.

    Args:
        b_from_a: Rigid transforms or similarities.

    Returns:
        ``a_from_b``.
    """
    linear = b_from_a[..., :3, :3]
    squared_scale = linear.square().sum(dim=(-1, -2)) / 3
    inverse_linear = linear.transpose(-1, -2) / squared_scale[..., None, None]
    translation = -(inverse_linear @ b_from_a[..., :3, 3:])[..., 0]
    return similarity(torch.ones_like(squared_scale), inverse_linear, translation)


def transform_points(
    b_from_a: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch_and_points 3"]
) -> Float[Tensor, "*batch_and_points 3"]:
    """Transform points to another coordinate frame.

    Args:
        b_from_a: Affine transforms.
        points: Points in coordinates of a. Their leading axes are the batch axes of `b_from_a`, followed by any further
            axes, such as (n, 3) or (height, width, 3).

    Returns:
        The points in coordinates of b.
    """
    batch = b_from_a.shape[:-2]
    flat = points.reshape(*batch, -1, 3)
    transformed = flat @ b_from_a[..., :3, :3].transpose(-1, -2) + b_from_a[..., None, :3, 3]
    return transformed.reshape(points.shape)


def transform_cameras(
    new_from_world: Float[Tensor, "*batch 4 4"], world_from_cam: Float[Tensor, "*batch time 4 4"]
) -> Float[Tensor, "*batch time 4 4"]:
    """Express camera poses in another world frame that is a similarity away.

    Camera centers are scaled; rotations stay rotations, so camera axes keep their unit length.

    Args:
        new_from_world: Similarity from the current to the new world frame.
        world_from_cam: Rigid camera poses in the current world frame.

    Returns:
        Rigid ``new_from_cam``.
    """
    new_from_cam = new_from_world[..., None, :, :] @ world_from_cam
    rotation = new_from_cam[..., :3, :3] / similarity_scale(new_from_world)[..., None, None, None]
    return rigid(rotation, new_from_cam[..., :3, 3])


def fill_missing_cameras(
    predicted: Float[Tensor, "time 4 4"], given: Float[Tensor, "time 4 4"], is_given: Bool[Tensor, "time"]
) -> Float[Tensor, "time 4 4"]:
    """Complete given camera poses with predicted ones.

    A frame without a given pose keeps its predicted pose relative to the nearest frame (by index) that has one.

    Args:
        predicted: Rigid ``world_from_cam`` of every frame, in a world frame of their own but in the unit of `given`.
        given: Rigid ``world_from_cam`` in the target world frame.
        is_given: Frames with a given pose, at least one; other entries of `given` are ignored.

    Returns:
        ``world_from_cam`` of every frame in the world frame of `given`.
    """
    frames, given_frames = torch.arange(len(given)), is_given.nonzero()[:, 0]
    nearest = given_frames[(frames[:, None] - given_frames).abs().argmin(dim=1)]
    completed = given[nearest] @ invert(predicted[nearest]) @ predicted
    return torch.where(is_given[:, None, None], given, completed)
