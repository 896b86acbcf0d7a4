"""Losses of cameras: rotation, translation, center, field of view and principal point.

Frames whose true camera is unknown (NaN) are left out. Lengths are in units of the scene (see `normalized`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import field_of_view, invert, resized_intrinsics
from recon4d.losses.errors import smooth_length
from recon4d.losses.term import Term, masked_term
from recon4d.records import Cameras, full_precision

ANGLE_SMOOTHNESS = 1e-3
"""Rotation errors below this are penalized quadratically, in radians. Hand-tuned."""
LENGTH_SMOOTHNESS = 1e-4
"""Translation errors below this are penalized quadratically, in units of the scene. Hand-tuned."""
MIN_TRANSLATION_SHARE = 0.15
"""Lower bound of the length that divides an error, relative to the longest translation of the clip. Hand-tuned.

The direction of shorter translations is poorly determined.
"""
TRANSLATION_OFFSET = 0.03
"""Added to the length that divides an error, in units of the scene; bounds errors of static cameras. Hand-tuned."""
MAX_TRANSLATION_ERROR = 4.0
"""Upper bound of a relative translation error; larger errors have no gradient. Hand-tuned."""
CENTER_SMOOTHNESS = 0.02
"""Beta of the smooth L1 loss of camera centers, in units of the scene. Hand-tuned."""


def rotation_term(predicted: Cameras, truth: Cameras) -> Term:
    """Compute the angle between predicted and true relative rotations, over all ordered pairs of different frames.

    Args:
        predicted: Predicted cameras (*batch, time).
        truth: True cameras (*batch, time); NaN if unknown.

    Returns:
        The term of the angles in radians.
    """
    known = _is_known(truth.world_from_cam)
    estimated, target = (_relative(cameras, known)[..., :3, :3] for cameras in (predicted, truth))
    return masked_term(_angle_between(estimated, target), _known_pairs(known))


def relative_translation_term(predicted: Cameras, truth: Cameras) -> Term:
    """Compute the relative error of relative translations, over all ordered pairs of different frames.

    A relative translation is the center of one camera in the frame of the other, so it depends on the rotation as well.
    The error is divided by the true length, bounded below by `MIN_TRANSLATION_SHARE` and `TRANSLATION_OFFSET`.

    Args:
        predicted: Predicted cameras (*batch, time).
        truth: True cameras (*batch, time); NaN if unknown.

    Returns:
        The term of the relative errors, each at most `MAX_TRANSLATION_ERROR`.
    """
    known = _is_known(truth.world_from_cam)
    pairs = _known_pairs(known)
    estimated, target = (_relative(cameras, known)[..., :3, 3] for cameras in (predicted, truth))
    lengths = target.norm(dim=-1) * pairs
    longest = lengths.amax(dim=(-1, -2), keepdim=True)
    errors = smooth_length(estimated - target, LENGTH_SMOOTHNESS)
    errors = errors / (torch.maximum(lengths, MIN_TRANSLATION_SHARE * longest) + TRANSLATION_OFFSET)
    return masked_term(errors.clamp(max=MAX_TRANSLATION_ERROR), pairs)


def center_term(predicted: Cameras, truth: Cameras) -> Term:
    """Compute the smooth L1 error of camera centers, averaged over x, y and z.

    Args:
        predicted: Predicted cameras (*batch, time).
        truth: True cameras (*batch, time) in the same world frame; NaN if unknown.

    Returns:
        The term over all frames, in units of the scene.
    """
    known = _is_known(truth.world_from_cam)
    estimated, target = (_or_identity(cameras.world_from_cam, known)[..., :3, 3] for cameras in (predicted, truth))
    errors = F.smooth_l1_loss(estimated, target, reduction="none", beta=CENTER_SMOOTHNESS)
    return masked_term(errors.mean(dim=-1), known)


def field_of_view_term(predicted: Cameras, truth: Cameras, size: tuple[int, int]) -> Term:
    """Compute the absolute error of the horizontal and vertical field of view, averaged over both.

    Args:
        predicted: Predicted cameras (*batch, time).
        truth: True cameras (*batch, time); NaN if unknown.
        size: Height and width in pixels of the maps that the intrinsics refer to.

    Returns:
        The term over all frames, in radians.
    """
    known = _is_known(truth.intrinsics)
    estimated, target = (
        field_of_view(_or_identity(cameras.intrinsics, known), *size) for cameras in (predicted, truth)
    )
    return masked_term((estimated - target).abs().mean(dim=-1), known)


def principal_point_term(predicted: Cameras, truth: Cameras, size: tuple[int, int]) -> Term:
    """Compute the absolute error of the principal point relative to the image's width and height, averaged over both.

    Args:
        predicted: Predicted cameras (*batch, time).
        truth: True cameras (*batch, time); NaN if unknown.
        size: Height and width in pixels of the maps that the intrinsics refer to.

    Returns:
        The term over all frames, as a fraction of the image side.
    """
    known = _is_known(truth.intrinsics)
    estimated, target = (
        resized_intrinsics(_or_identity(cameras.intrinsics, known), size, (1, 1))[..., :2, 2]
        for cameras in (predicted, truth)
    )
    return masked_term((estimated - target).abs().mean(dim=-1), known)


def _relative(cameras: Cameras, known: Bool[Tensor, "*batch time"]) -> Float[Tensor, "*batch time time 4 4"]:
    """Compute cam_i_from_cam_j for all i and j, with the identity in place of unknown cameras."""
    world_from_cam = _or_identity(cameras.world_from_cam, known)
    with torch.autocast(world_from_cam.device.type, enabled=False):
        return invert(world_from_cam)[..., :, None, :, :] @ world_from_cam[..., None, :, :, :]


def _angle_between(
    estimated: Float[Tensor, "*batch 3 3"], target: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """Compute the angle of predicted^T true, with a finite gradient everywhere.

    The angle is atan2(sine, cosine), see `geometry.rotation_angle`. The sine is the norm of a vector, which has no
    gradient at angles of 0 and pi, so the smooth length is used instead.
    """
    with torch.autocast(estimated.device.type, enabled=False):
        between = estimated.transpose(-1, -2) @ target
    skew = between - between.transpose(-1, -2)
    axis = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)
    twice_sine = smooth_length(axis, 2 * ANGLE_SMOOTHNESS)
    return torch.atan2(twice_sine, between.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1)


def _is_known(matrices: Float[Tensor, "*batch time n n"]) -> Bool[Tensor, "*batch time"]:
    """Return a mask of frames whose matrix is finite."""
    return torch.isfinite(matrices).flatten(-2).all(dim=-1)


def _known_pairs(known: Bool[Tensor, "*batch time"]) -> Bool[Tensor, "*batch time time"]:
    """Return a mask of ordered pairs of different frames that are both known."""
    is_same = torch.eye(known.shape[-1], dtype=torch.bool, device=known.device)
    return known[..., :, None] & known[..., None, :] & ~is_same


def _or_identity(
    matrices: Float[Tensor, "*batch time n n"], known: Bool[Tensor, "*batch time"]
) -> Float[Tensor, "*batch time n n"]:
    """Replace the matrices of unknown frames by the identity."""
    matrices = full_precision(matrices)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return torch.where(known[..., None, None], matrices, identity)
