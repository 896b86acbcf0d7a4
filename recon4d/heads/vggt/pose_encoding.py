"""Cameras as VGGT's nine numbers: translation and quaternion of camera-from-world, and two fields of view."""

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
"""Translation (3), quaternion x y z w (4), vertical and horizontal field of view (2)."""


def encode_poses(
    cameras: Cameras, size: tuple[int, int], angle_offset: float = 0.0
) -> Float[Tensor, "*batch time pose"]:
    """Cameras as a head says them raw, for images of `size` (height, width): the principal point is left out.

    The translation is where the world's origin is for the camera, not the camera's center. `angle_offset` is what
    decoding adds to a raw field of view.
    """
    cam_from_world = cameras.cam_from_world
    quaternion = quaternion_from_rotation(cam_from_world[..., :3, :3])
    angles = field_of_view(cameras.intrinsics, *size).flip(-1) - angle_offset
    return torch.cat([cam_from_world[..., :3, 3], quaternion.roll(-1, dims=-1), angles], dim=-1)


def decode_poses(
    encoding: Float[Tensor, "*batch time pose"], size: tuple[int, int], angle_offset: float = 0.0
) -> Cameras:
    """The cameras of raw encodings, for images of `size` (height, width), their principal points in the middle.

    The published activation of a raw angle, ReLU and then `angle_offset`, is 0 or little more where the head says
    less than nothing, and the focal length without end; here the floor of `FIELD_OF_VIEW_RANGE` stands in its place.
    """
    height, width = size
    with torch.autocast(encoding.device.type, enabled=False):
        translation, quaternion, angles = full_precision(encoding).split([3, 4, 2], dim=-1)
        rotation = rotation_from_quaternion(quaternion.roll(1, dims=-1))
        held = (angles.flip(-1) + angle_offset).clamp(*FIELD_OF_VIEW_RANGE)
        middle = held.new_tensor([width / 2, height / 2]).expand_as(held)
        return Cameras(
            world_from_cam=invert(rigid(rotation, translation)),
            intrinsics=intrinsics_from_field_of_view(held, middle, height, width),
        )


def prior_pose() -> Float[Tensor, "pose"]:
    """Where a head starts: an unturned camera at the origin, whose picture is a square."""
    return torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, PRIOR_FIELD_OF_VIEW, PRIOR_FIELD_OF_VIEW])
