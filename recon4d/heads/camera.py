"""The camera head: poses and intrinsics from the camera tokens of all frames."""

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
"""Center (3), quaternion w x y z (4), horizontal and vertical field of view in radians (2), principal point (2)."""


@dataclass(frozen=True)
class CameraHeadConfig:
    """Configuration of the camera head."""

    block: BlockConfig
    """Configuration of the self-attention blocks over the camera tokens of all frames."""
    blocks: int = 2
    """Number of blocks."""


class CameraHead(CameraPredictor):
    """Predicts centers, rotations, fields of view and principal points in one pass over the camera tokens.

    Args:
        config: Configuration of the head.
        feature_width: Channels of the tokens that `forward` receives.
    """

    def __init__(self, config: CameraHeadConfig, feature_width: int) -> None:
        super().__init__()
        width = config.block.width
        self.project = nn.Linear(feature_width, width)
        self.blocks = nn.ModuleList([Block(config.block) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, ENCODING_WIDTH)

    def reset_parameters(self) -> None:
        """Initialize every camera to the prior."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, tokens: Float[Tensor, "batch time special feature_width"], size: tuple[int, int]
    ) -> Float[Tensor, "stage batch time encoding"]:
        """Predict camera encodings in a single stage.

        Args:
            tokens: Special tokens of the last aggregator output; the first of each frame is the camera token.
            size: Height and width of the images in pixels.

        Returns:
            Encodings as `decode_cameras` reads them.
        """
        camera_tokens = full_precision(self.project(tokens[:, :, 0]))
        for block in self.blocks:
            camera_tokens = block(camera_tokens)
        # The encoding is geometry and stays in float32, whatever the precision of the network.
        with torch.autocast(tokens.device.type, enabled=False):
            hidden = self.hidden(self.norm(full_precision(camera_tokens)))
            encoding = self.out(nn.functional.gelu(hidden))
        return (encoding + _prior(size, encoding))[None]

    def decode(self, encoding: Float[Tensor, "*batch time encoding"], size: tuple[int, int]) -> Cameras:
        """Decode the cameras of one stage, in the world of the first camera.

        Losses on camera pairs do not determine the common rotation of all cameras, while point maps and tracks refer
        to the first camera.

        Args:
            encoding: Encodings of one stage.
            size: Height and width of the images in pixels.

        Returns:
            The cameras; the first is the identity.
        """
        cameras = decode_cameras(encoding, size)
        world_from_cam = full_precision(cameras.world_from_cam)
        with torch.autocast(world_from_cam.device.type, enabled=False):
            return replace(cameras, world_from_cam=invert(world_from_cam[..., :1, :, :]) @ world_from_cam)

    def encode(self, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
        """See `CameraPredictor.encode`."""
        return encode_cameras(cameras, size)


def encode_cameras(cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
    """Encode cameras as the camera head predicts them.

    Args:
        cameras: Any cameras.
        size: Height and width in pixels of the images that the intrinsics refer to.

    Returns:
        Encodings with `ENCODING_WIDTH` entries.
    """
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
    """Decode cameras from the predictions of the camera head.

    Args:
        encoding: Encodings with `ENCODING_WIDTH` entries. Fields of view are clamped to `FIELD_OF_VIEW_RANGE`.
        size: Height and width of the images in pixels.

    Returns:
        The cameras, with intrinsics for images of this size.
    """
    height, width = size
    center, quaternion, angles, offset = encoding.split([3, 4, 2, 2], dim=-1)
    principal_point = (offset + 0.5) * encoding.new_tensor([float(width), float(height)])
    return Cameras(
        world_from_cam=rigid(rotation_from_quaternion(quaternion), center),
        intrinsics=intrinsics_from_field_of_view(angles.clamp(*FIELD_OF_VIEW_RANGE), principal_point, height, width),
    )


def _prior(size: tuple[int, int], like: Tensor) -> Float[Tensor, "encoding"]:
    """Return the encoding of a camera at the origin with square pixels; the aspect ratio need not be learned."""
    height, width = size
    focal = math.sqrt(height * width) / (2 * math.tan(PRIOR_FIELD_OF_VIEW / 2))
    angles = [2 * math.atan(side / (2 * focal)) for side in (width, height)]
    return like.new_tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, *angles, 0.0, 0.0])
