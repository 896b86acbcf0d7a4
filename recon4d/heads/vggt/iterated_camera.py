"""VGGT's camera head, which refines its camera encodings iteratively."""

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

MODULATION_EPSILON = 1e-6
"""Epsilon of the modulated norm without weights (VGGT); all other norms of the head use 1e-5."""


@dataclass(frozen=True)
class IteratedCameraHeadConfig:
    """Configuration of VGGT's camera head.

    VGGT's block is ``BlockConfig(2048, 16, 8192, qk_norm="none", layer_scale=0.01, qkv_bias=True)``.
    """

    block: BlockConfig
    """Configuration of the self-attention blocks; their width equals that of the tokens."""
    blocks: int = 4
    """Number of blocks."""
    iterations: int = 4
    """Number of passes through the blocks."""


class IteratedCameraHead(CameraPredictor):
    """Updates the camera encoding iteratively; the current sum modulates the tokens (adaLN, Peebles and Xie 2023).

    The sum is fed back without activation and without gradient, so that each iteration learns only from its own stage.

    Args:
        config: Configuration of the head.
        feature_width: Channels of the tokens that `forward` receives.

    Raises:
        UserError: If the blocks and the tokens have different widths.
    """

    def __init__(self, config: IteratedCameraHeadConfig, feature_width: int) -> None:
        super().__init__()
        width = config.block.width
        if width != feature_width:
            raise UserError(f"the camera head has blocks of width {width}; wanted {feature_width} as its tokens")
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
        """Initialize every iteration to add an equal share of the prior, the identity pose."""
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(prior_pose() / self.iterations)

    def forward(
        self, tokens: Float[Tensor, "batch time special feature_width"], size: tuple[int, int]
    ) -> Float[Tensor, "stage batch time encoding"]:
        """Predict the raw sum after each iteration. See `CameraPredictor.forward`; `size` is not used."""
        # The encoding is geometry and stays in float32, whatever the precision of the network.
        with torch.autocast(tokens.device.type, enabled=False):
            camera_tokens = self.token_norm(full_precision(tokens[:, :, 0]))
            encoding = self.empty_encoding.expand(*camera_tokens.shape[:2], -1)
            total = torch.zeros_like(encoding)
            stages = []
            for _ in range(self.iterations):
                total = total.detach() + self._delta(camera_tokens, encoding)
                stages.append(total)
                encoding = total.detach()
            return torch.stack(stages)

    def decode(self, encoding: Float[Tensor, "*batch time encoding"], size: tuple[int, int]) -> Cameras:
        """See `CameraPredictor.decode` and `pose_encoding`."""
        return decode_poses(encoding, size)

    def encode(self, cameras: Cameras, size: tuple[int, int]) -> Float[Tensor, "*batch time encoding"]:
        """See `CameraPredictor.encode`; the principal point is assumed to be the image center."""
        return encode_poses(cameras, size)

    def _delta(self, tokens: Tensor, encoding: Tensor) -> Float[Tensor, "batch time encoding"]:
        """Return what one iteration adds to the current encoding."""
        shift, scale, gate = self.modulation(F.silu(self.embed(encoding))).chunk(3, dim=-1)
        tokens = tokens + gate * (self.modulated_norm(tokens) * (1 + scale) + shift)
        for block in self.blocks:
            tokens = block(tokens)
        return self.out(F.gelu(self.hidden(self.norm(tokens))))
