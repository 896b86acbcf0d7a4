"""VGGT-Omega's camera head: a single pass over the camera and register tokens of all frames."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.errors import UserError
from recon4d.heads.camera_base import CameraPredictor
from recon4d.heads.vggt.pose_encoding import (
    POSE_WIDTH,
    decode_poses,
    encode_poses,
    prior_pose,
)
from recon4d.layers import Block, BlockConfig
from recon4d.records import Cameras, full_precision

ANGLE_OFFSET = 0.01
"""Offset in radians that is added to a raw field of view (VGGT-Omega)."""


@dataclass(frozen=True)
class RegisterCameraHeadConfig:
    """Configuration of VGGT-Omega's camera head.

    VGGT-Omega's block is ``BlockConfig(2048, 16, 8192, qk_norm="none", layer_scale=1e-5, qkv_bias=True)``.
    """

    block: BlockConfig
    """Configuration of the self-attention blocks; their width equals that of the tokens."""
    blocks: int = 4
    """Number of blocks."""


class RegisterCameraHead(CameraPredictor):
    """Attends over camera and register tokens and reads the encodings from the camera tokens.

    Args:
        config: Configuration of the head.
        feature_width: Channels of the tokens that `forward` receives.

    Raises:
        UserError: If the blocks and the tokens have different widths.
    """

    def __init__(self, config: RegisterCameraHeadConfig, feature_width: int) -> None:
        super().__init__()
        width = config.block.width
        if width != feature_width:
            raise UserError(f"the camera head has blocks of width {width}; wanted {feature_width} as its tokens")
        self.token_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([Block(config.block) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width // 2)
        self.out = nn.Linear(width // 2, POSE_WIDTH)

    def reset_parameters(self) -> None:
        """Initialize every camera to the prior."""
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(prior_pose())
            self.out.bias[-2:] -= ANGLE_OFFSET

    def forward(
        self, tokens: Float[Tensor, "batch time special feature_width"], size: tuple[int, int]
    ) -> Float[Tensor, "stage batch time encoding"]:
        """Predict raw encodings in a single stage. See `CameraPredictor.forward`; `size` is not used."""
        # The encoding is geometry and stays in float32, whatever the precision of the network.
        with torch.autocast(tokens.device.type, enabled=False):
            time, special = tokens.shape[1:3]
            mixed = self.token_norm(full_precision(tokens)).flatten(1, 2)
            for block in self.blocks:
                mixed = block(mixed)
            camera_tokens = self.norm(mixed.unflatten(1, (time, special))[:, :, 0])
            return self.out(F.gelu(self.hidden(camera_tokens)))[None]

    def decode(self, encoding: Float[Tensor, "*batch time encoding"], size: tuple[int, int]) -> Cameras:
        """See `CameraPredictor.decode` and `pose_encoding`."""
        return decode_poses(encoding, size, ANGLE_OFFSET)

    def encode(self, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
        """See `CameraPredictor.encode`; the principal point is assumed to be the image center."""
        return encode_poses(cameras, size, ANGLE_OFFSET)
