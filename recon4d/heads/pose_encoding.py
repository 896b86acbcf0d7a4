"""Encoding of a rigid transform and two fields of view in nine numbers, as VGGT and Depth Anything 3 predict them."""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import (
    field_of_view,
    intrinsics_from_field_of_view,
    quaternion_from_rotation,
    rigid,
    rotation_from_quaternion,
)
from recon4d.heads.camera_base import FIELD_OF_VIEW_RANGE
from recon4d.records import full_precision

POSE_WIDTH = 9
"""Translation (3), quaternion x y z w (4), vertical and horizontal field of view in radians (2)."""


def encode_transforms(
    transforms: Float[Tensor, "*batch time 4 4"],
    intrinsics: Float[Tensor, "*batch time 3 3"],
    size: tuple[int, int],
    angle_offset: float = 0.0,
) -> Float[Tensor, "*batch time pose"]:
    """Encode rigid transforms and intrinsics; the principal point is omitted.

    Args:
        transforms: Rigid transforms of the cameras: ``cam_from_world`` for VGGT, ``world_from_cam`` for Depth Anything
            3.
        intrinsics: Intrinsics in pixels.
        size: Height and width in pixels of the images that the intrinsics refer to.
        angle_offset: Offset in radians that `decode_transforms` adds to raw fields of view.

    Returns:
        Encodings with `POSE_WIDTH` entries.
    """
    quaternion = quaternion_from_rotation(transforms[..., :3, :3])
    angles = field_of_view(intrinsics, *size).flip(-1) - angle_offset
    return torch.cat([transforms[..., :3, 3], quaternion.roll(-1, dims=-1), angles], dim=-1)


def decode_transforms(
    encoding: Float[Tensor, "*batch time pose"], size: tuple[int, int], angle_offset: float = 0.0
) -> tuple[Float[Tensor, "*batch time 4 4"], Float[Tensor, "*batch time 3 3"]]:
    """Decode rigid transforms and intrinsics from raw predictions, with principal points at the image center.

    The published activation of an angle, ReLU plus `angle_offset`, gives 0 or little more for negative raw values and
    thus an unbounded focal length. Here fields of view are clamped to `FIELD_OF_VIEW_RANGE` instead.

    Args:
        encoding: Encodings with `POSE_WIDTH` entries.
        size: Height and width of the images in pixels.
        angle_offset: Offset in radians that is added to raw fields of view.

    Returns:
        Rigid transforms in full precision, and intrinsics for images of this size.
    """
    height, width = size
    with torch.autocast(encoding.device.type, enabled=False):
        translation, quaternion, angles = full_precision(encoding).split([3, 4, 2], dim=-1)
        rotation = rotation_from_quaternion(quaternion.roll(1, dims=-1))
        clamped = (angles.flip(-1) + angle_offset).clamp(*FIELD_OF_VIEW_RANGE)
        middle = clamped.new_tensor([width / 2, height / 2]).expand_as(clamped)
        return rigid(rotation, translation), intrinsics_from_field_of_view(clamped, middle, height, width)
