"""VGGT's camera head: it looks at the camera tokens several times, each time knowing what it said before."""

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

MODULATION_EPSILON = 1e-6
"""Of the norm without weights that is modulated; every other norm of the head has 1e-5."""


@dataclass(frozen=True)
class IteratedCameraHeadConfig:
    """Blocks in which camera tokens attend to each other, as wide as the tokens, and how often they are gone through.

    VGGT's block is ``BlockConfig(2048, 16, 8192, qk_norm="none", layer_scale=0.01, qkv_bias=True)``.
    """

    block: BlockConfig
    blocks: int = 4
    iterations: int = 4


class IteratedCameraHead(CameraPredictor):
    """Each iteration adds to the encoding; what was said so far modulates the tokens (adaLN, Peebles and Xie 2023).

    The sum is fed back raw and without gradient, so that each iteration learns from its own stage alone.
    """

    def __init__(self, config: IteratedCameraHeadConfig, tap_width: int) -> None:
        super().__init__()
        width = config.block.width
        if width != tap_width:
            raise ValueError(f"blocks of width {width} for tokens of width {tap_width}; this head wants them alike")
        self.iterations = config.iterations
        self.token_norm = nn.LayerNorm(width)
        self.empty_encoding = nn.Parameter(torch.zeros(POSE_WIDTH))
        self.embed = nn.Linear(POSE_WIDTH, width)
        self.modulation = nn.Linear(width, 3 * width)
        self.modulated_norm = nn.LayerNorm(width, eps=MODULATION_EPSILON, elementwise_affine=False)
        self.blocks = nn.ModuleList([Block(config.block) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width // 2)
        self.out = nn.Linear(width // 2, POSE_WIDTH)

    def reset_parameters(self) -> None:
        """Every iteration adds the same share of the prior: an unturned camera at the origin."""
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(prior_pose() / self.iterations)

    def forward(
        self, tokens: Float[Tensor, "batch time special tap_width"], size: tuple[int, int]
    ) -> Float[Tensor, "stage batch time encoding"]:
        """The raw sum after each iteration; the size of the picture is not looked at."""
        # The encoding is geometry: float32 whatever the network runs in.
        with torch.autocast(tokens.device.type, enabled=False):
            camera_tokens = self.token_norm(full_precision(tokens[:, :, 0]))
            said = self.empty_encoding.expand(*camera_tokens.shape[:2], -1)
            total = torch.zeros_like(said)
            stages = []
            for _ in range(self.iterations):
                total = total.detach() + self._delta(camera_tokens, said)
                stages.append(total)
                said = total.detach()
            return torch.stack(stages)

    def decode(self, encoding: Float[Tensor, "*batch time encoding"], size: tuple[int, int]) -> Cameras:
        """The cameras of one stage (`pose_encoding`)."""
        return decode_poses(encoding, size)

    def encode(self, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
        """The encoding of cameras whose principal points lie in the middle."""
        return encode_poses(cameras, size)

    def _delta(self, tokens: Tensor, said: Tensor) -> Float[Tensor, "batch time encoding"]:
        """What one iteration adds to what was `said`."""
        shift, scale, gate = self.modulation(F.silu(self.embed(said))).chunk(3, dim=-1)
        tokens = tokens + gate * (self.modulated_norm(tokens) * (1 + scale) + shift)
        for block in self.blocks:
            tokens = block(tokens)
        return self.out(F.gelu(self.hidden(self.norm(tokens))))
