"""VGGT-Omega's camera head: one pass over the camera and register tokens of all frames."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

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
"""Radians added to a raw field of view."""


@dataclass(frozen=True)
class RegisterCameraHeadConfig:
    """Blocks in which the special tokens of all frames attend to each other, as wide as the tokens.

    VGGT-Omega's block is ``BlockConfig(2048, 16, 8192, qk_norm="none", layer_scale=1e-5, qkv_bias=True)``.
    """

    block: BlockConfig
    blocks: int = 4


class RegisterCameraHead(CameraPredictor):
    """Registers take part in attention; the answer is read from the camera tokens."""

    def __init__(self, config: RegisterCameraHeadConfig, tap_width: int) -> None:
        super().__init__()
        width = config.block.width
        if width != tap_width:
            raise ValueError(f"blocks of width {width} for tokens of width {tap_width}; this head wants them alike")
        self.token_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([Block(config.block) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width // 2)
        self.out = nn.Linear(width // 2, POSE_WIDTH)

    def reset_parameters(self) -> None:
        """Every camera starts as the prior."""
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(prior_pose())
            self.out.bias[-2:] -= ANGLE_OFFSET

    def forward(
        self, tokens: Float[Tensor, "batch time special tap_width"], size: tuple[int, int]
    ) -> Float[Tensor, "stage batch time encoding"]:
        """Raw encodings, in one stage; the size of the picture is not looked at."""
        # The encoding is geometry: float32 whatever the network runs in.
        with torch.autocast(tokens.device.type, enabled=False):
            time, special = tokens.shape[1:3]
            mixed = self.token_norm(full_precision(tokens)).flatten(1, 2)
            for block in self.blocks:
                mixed = block(mixed)
            camera_tokens = self.norm(mixed.unflatten(1, (time, special))[:, :, 0])
            return self.out(F.gelu(self.hidden(camera_tokens)))[None]

    def decode(self, encoding: Float[Tensor, "*batch time encoding"], size: tuple[int, int]) -> Cameras:
        """The cameras of one stage (`pose_encoding`)."""
        return decode_poses(encoding, size, ANGLE_OFFSET)

    def encode(self, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
        """The encoding of cameras whose principal points lie in the middle."""
        return encode_poses(cameras, size, ANGLE_OFFSET)
