"""The camera head: from the camera tokens of all frames to where each camera stood and how it sees."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.geometry import (
    field_of_view,
    intrinsics_from_field_of_view,
    invert,
    quaternion_from_rotation,
    resized_intrinsics,
    rigid,
    rotation_from_quaternion,
)
from recon4d.heads.camera_base import FIELD_OF_VIEW_RANGE, PRIOR_FIELD_OF_VIEW, CameraPredictor
from recon4d.layers import Block, BlockConfig
from recon4d.records import Cameras, full_precision

ENCODING_WIDTH = 11
"""Center (3), quaternion w x y z (4), horizontal and vertical field of view (2), principal point (2)."""


@dataclass(frozen=True)
class CameraHeadConfig:
    """Blocks in which camera tokens attend to each other."""

    block: BlockConfig
    blocks: int = 2


class CameraHead(CameraPredictor):
    """One pass over the camera tokens of all frames, which answers centers and principal points too."""

    def __init__(self, config: CameraHeadConfig, tap_width: int) -> None:
        super().__init__()
        width = config.block.width
        self.project = nn.Linear(tap_width, width)
        self.blocks = nn.ModuleList([Block(config.block) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, ENCODING_WIDTH)

    def reset_parameters(self) -> None:
        """Every camera starts as the prior."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, tokens: Float[Tensor, "batch time special tap_width"], size: tuple[int, int]
    ) -> Float[Tensor, "stage batch time encoding"]:
        """Camera encodings for images of `size` (height, width), in one stage."""
        camera_tokens = full_precision(self.project(tokens[:, :, 0]))
        for block in self.blocks:
            camera_tokens = block(camera_tokens)
        # The encoding is geometry: float32 whatever the network runs in.
        with torch.autocast(tokens.device.type, enabled=False):
            hidden = self.hidden(self.norm(full_precision(camera_tokens)))
            encoding = self.out(nn.functional.gelu(hidden))
        return (encoding + _prior(size, encoding))[None]

    def decode(self, encoding: Float[Tensor, "*batch time encoding"], size: tuple[int, int]) -> Cameras:
        """The cameras of one stage, the first of which is where the world begins.

        Losses of pairs leave open how all cameras turn together; point maps and tracks are about the first camera.
        """
        cameras = decode_cameras(encoding, size)
        world_from_cam = full_precision(cameras.world_from_cam)
        with torch.autocast(world_from_cam.device.type, enabled=False):
            return replace(cameras, world_from_cam=invert(world_from_cam[..., :1, :, :]) @ world_from_cam)

    def encode(self, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
        """The encoding of any cameras."""
        return encode_cameras(cameras, size)


def encode_cameras(cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
    """Cameras as the camera head predicts them, for images of `size` (height, width)."""
    world_from_cam = cameras.world_from_cam
    principal_point = resized_intrinsics(cameras.intrinsics, size, (1, 1))[..., :2, 2]
    return torch.cat(
        [
            world_from_cam[..., :3, 3],
            quaternion_from_rotation(world_from_cam[..., :3, :3]),
            field_of_view(cameras.intrinsics, *size),
            principal_point - 0.5,
        ],
        dim=-1,
    )


def decode_cameras(encoding: Float[Tensor, "*batch time encoding"], size: tuple[int, int]) -> Cameras:
    """The cameras of an encoding, for images of `size` (height, width); the field of view is kept in its range."""
    height, width = size
    center, quaternion, angles, offset = encoding.split([3, 4, 2, 2], dim=-1)
    principal_point = (offset + 0.5) * encoding.new_tensor([float(width), float(height)])
    return Cameras(
        world_from_cam=rigid(rotation_from_quaternion(quaternion), center),
        intrinsics=intrinsics_from_field_of_view(angles.clamp(*FIELD_OF_VIEW_RANGE), principal_point, height, width),
    )


def _prior(size: tuple[int, int], like: Tensor) -> Float[Tensor, "encoding"]:
    """A camera at the origin with square pixels, so that width and height of the picture need not be learned."""
    height, width = size
    focal = math.sqrt(height * width) / (2 * math.tan(PRIOR_FIELD_OF_VIEW / 2))
    angles = [2 * math.atan(side / (2 * focal)) for side in (width, height)]
    return like.new_tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, *angles, 0.0, 0.0])
