"""VGGT's pose encoding: translation and quaternion of camera-from-world, and two fields of view."""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import (
    field_of_view,
    intrinsics_from_field_of_view,
    invert,
    quaternion_from_rotation,
    rigid,
    rotation_from_quaternion,
)
from recon4d.heads.camera_base import FIELD_OF_VIEW_RANGE, PRIOR_FIELD_OF_VIEW
from recon4d.records import Cameras, full_precision

POSE_WIDTH = 9
"""Translation (3), quaternion x y z w (4), vertical and horizontal field of view in radians (2)."""


def encode_poses(
    cameras: Cameras, size: tuple[int, int], angle_offset: float = 0.0
) -> Float[Tensor, "*batch time pose"]:
    """Encode cameras as raw predictions of a VGGT head; the principal point is omitted.

    The translation is that of cam_from_world, not the camera center.

    Args:
        cameras: Any cameras.
        size: Height and width in pixels of the images that the intrinsics refer to.
        angle_offset: Offset in radians that `decode_poses` adds to raw fields of view.

    Returns:
        Encodings with `POSE_WIDTH` entries.
    """
    cam_from_world = cameras.cam_from_world
    quaternion = quaternion_from_rotation(cam_from_world[..., :3, :3])
    angles = field_of_view(cameras.intrinsics, *size).flip(-1) - angle_offset
    return torch.cat([cam_from_world[..., :3, 3], quaternion.roll(-1, dims=-1), angles], dim=-1)


def decode_poses(
    encoding: Float[Tensor, "*batch time pose"], size: tuple[int, int], angle_offset: float = 0.0
) -> Cameras:
    """Decode cameras from raw predictions, with principal points at the image center.

    The published activation of an angle, ReLU plus `angle_offset`, gives 0 or little more for negative raw values and
    thus an unbounded focal length. Here fields of view are clamped to `FIELD_OF_VIEW_RANGE` instead.

    Args:
        encoding: Encodings with `POSE_WIDTH` entries.
        size: Height and width of the images in pixels.
        angle_offset: Offset in radians that is added to raw fields of view.

    Returns:
        The cameras, with intrinsics for images of this size.
    """
    height, width = size
    with torch.autocast(encoding.device.type, enabled=False):
        translation, quaternion, angles = full_precision(encoding).split([3, 4, 2], dim=-1)
        rotation = rotation_from_quaternion(quaternion.roll(1, dims=-1))
        clamped = (angles.flip(-1) + angle_offset).clamp(*FIELD_OF_VIEW_RANGE)
        middle = clamped.new_tensor([width / 2, height / 2]).expand_as(clamped)
        return Cameras(
            world_from_cam=invert(rigid(rotation, translation)),
            intrinsics=intrinsics_from_field_of_view(clamped, middle, height, width),
        )


def prior_pose() -> Float[Tensor, "pose"]:
    """Return the initial encoding of a head: the identity pose with equal fields of view.

    Returns:
        The encoding.
    """
    return torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, PRIOR_FIELD_OF_VIEW, PRIOR_FIELD_OF_VIEW])
