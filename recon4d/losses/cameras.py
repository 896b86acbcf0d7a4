"""Errors of cameras: how they turn and stand to one another, where they stand, and how they see.

Frames whose true camera is unknown (NaN) are left out. Lengths are in units of the scene (`normalised`).
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
"""Radians below which the error of a rotation becomes a parabola."""
LENGTH_SMOOTHNESS = 1e-4
SHORT_SHARE = 0.15
"""Translations shorter than this share of the clip's longest count as that long: their direction is hardly known."""
SHORT_LENGTH = 0.03
"""Added to every translation's length, so that a still camera is not asked for the impossible."""
MAX_TRANSLATION_ERROR = 4.0
CENTER_SMOOTHNESS = 0.02


def rotation_term(predicted: Cameras, truth: Cameras) -> Term:
    """Angle in radians between predicted and true relative rotation, over all ordered pairs of different frames."""
    known = _is_known(truth.world_from_cam)
    given, wanted = (_relative(cameras, known)[..., :3, :3] for cameras in (predicted, truth))
    return masked_term(_angle_between(given, wanted), _pairs(known))


def relative_translation_term(predicted: Cameras, truth: Cameras) -> Term:
    """Error of the relative translation over its own true length, over all ordered pairs of different frames.

    A translation is the other camera's center in this camera's axes, so it asks for both rotation and length. The
    length has a floor (`SHORT_SHARE`, `SHORT_LENGTH`); an error above `MAX_TRANSLATION_ERROR` has no gradient.
    """
    known = _is_known(truth.world_from_cam)
    pairs = _pairs(known)
    given, wanted = (_relative(cameras, known)[..., :3, 3] for cameras in (predicted, truth))
    lengths = wanted.norm(dim=-1) * pairs
    longest = lengths.amax(dim=(-1, -2), keepdim=True)
    errors = smooth_length(given - wanted, LENGTH_SMOOTHNESS)
    errors = errors / (torch.maximum(lengths, SHORT_SHARE * longest) + SHORT_LENGTH)
    return masked_term(errors.clamp(max=MAX_TRANSLATION_ERROR), pairs)


def center_term(predicted: Cameras, truth: Cameras) -> Term:
    """Smooth L1 of the cameras' centers, mean of x, y and z, both in the world of the true first camera."""
    known = _is_known(truth.world_from_cam)
    given, wanted = (_or_identity(cameras.world_from_cam, known)[..., :3, 3] for cameras in (predicted, truth))
    errors = F.smooth_l1_loss(given, wanted, reduction="none", beta=CENTER_SMOOTHNESS)
    return masked_term(errors.mean(dim=-1), known)


def field_of_view_term(predicted: Cameras, truth: Cameras, size: tuple[int, int]) -> Term:
    """Error of the field of view in radians, mean of both angles, for maps of `size` (height, width)."""
    known = _is_known(truth.intrinsics)
    given, wanted = (field_of_view(_or_identity(cameras.intrinsics, known), *size) for cameras in (predicted, truth))
    return masked_term((given - wanted).abs().mean(dim=-1), known)


def principal_point_term(predicted: Cameras, truth: Cameras, size: tuple[int, int]) -> Term:
    """Error of the principal point as a share of the picture's width and height, mean of both."""
    known = _is_known(truth.intrinsics)
    given, wanted = (
        resized_intrinsics(_or_identity(cameras.intrinsics, known), size, (1, 1))[..., :2, 2]
        for cameras in (predicted, truth)
    )
    return masked_term((given - wanted).abs().mean(dim=-1), known)


def _relative(cameras: Cameras, known: Bool[Tensor, "*batch time"]) -> Float[Tensor, "*batch time time 4 4"]:
    """cam_i_from_cam_j for all i and j; identity for unknown cameras."""
    world_from_cam = _or_identity(cameras.world_from_cam, known)
    with torch.autocast(world_from_cam.device.type, enabled=False):
        return invert(world_from_cam)[..., :, None, :, :] @ world_from_cam[..., None, :, :, :]


def _angle_between(given: Float[Tensor, "*batch 3 3"], wanted: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """The angle of given^T wanted, with a gradient everywhere.

    atan2 of sine and cosine (see `geometry.rotation_angle`); the sine is a norm, which has no gradient at 0 and at pi
    unless it is made smooth.
    """
    with torch.autocast(given.device.type, enabled=False):
        between = given.transpose(-1, -2) @ wanted
    skew = between - between.transpose(-1, -2)
    axis = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)
    twice_sine = smooth_length(axis, 2 * ANGLE_SMOOTHNESS)
    return torch.atan2(twice_sine, between.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1)


def _is_known(matrices: Float[Tensor, "*batch time n n"]) -> Bool[Tensor, "*batch time"]:
    return torch.isfinite(matrices).flatten(-2).all(dim=-1)


def _pairs(known: Bool[Tensor, "*batch time"]) -> Bool[Tensor, "*batch time time"]:
    """Pairs of two different known frames."""
    is_same = torch.eye(known.shape[-1], dtype=torch.bool, device=known.device)
    return known[..., :, None] & known[..., None, :] & ~is_same


def _or_identity(
    matrices: Float[Tensor, "*batch time n n"], known: Bool[Tensor, "*batch time"]
) -> Float[Tensor, "*batch time n n"]:
    matrices = full_precision(matrices)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return torch.where(known[..., None, None], matrices, identity)
