"""VGGT's pose encoding: translation and quaternion of camera-from-world, and two fields of view."""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import invert
from recon4d.heads.camera_base import PRIOR_FIELD_OF_VIEW
from recon4d.heads.pose_encoding import POSE_WIDTH, decode_transforms, encode_transforms
from recon4d.records import Cameras

__all__ = ["POSE_WIDTH", "decode_poses", "encode_poses", "prior_pose"]


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
    return encode_transforms(cameras.cam_from_world, cameras.intrinsics, size, angle_offset)


def decode_poses(
    encoding: Float[Tensor, "*batch time pose"], size: tuple[int, int], angle_offset: float = 0.0
) -> Cameras:
    """Decode cameras from raw predictions (`decode_transforms`).

    Args:
        encoding: Encodings with `POSE_WIDTH` entries.
        size: Height and width of the images in pixels.
        angle_offset: Offset in radians that is added to raw fields of view.

    Returns:
        The cameras, with intrinsics for images of this size.
    """
    cam_from_world, intrinsics = decode_transforms(encoding, size, angle_offset)
    with torch.autocast(encoding.device.type, enabled=False):
        return Cameras(world_from_cam=invert(cam_from_world), intrinsics=intrinsics)


def prior_pose() -> Float[Tensor, "pose"]:
    """Return the initial encoding of a head: the identity pose with equal fields of view.

    Returns:
        The encoding.
    """
    return torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, PRIOR_FIELD_OF_VIEW, PRIOR_FIELD_OF_VIEW])
