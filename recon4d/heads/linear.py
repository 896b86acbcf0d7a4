"""The linear dense head: a linear layer converts each patch token to a block of pixels, refined by convolutions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.heads.dense import (
    DenseHead,
    ResidualConvolutions,
    match_size,
    shift_bias,
)
from recon4d.records import full_precision


@dataclass(frozen=True)
class LinearHeadConfig:
    """Configuration of the linear dense head."""

    width: int = 384
    """Channels of the tokens after the layers are fused."""
    channels: int = 64
    """Channels of the feature maps at about a quarter of the image size."""


class LinearHead(DenseHead):
    """Fuses the layers, expands tokens to stride 4, adds finer features and expands to full resolution.

    Args:
        config: Configuration of the head.
        feature_widths: Channels of the patch tokens of each layer.
        patch_size: Side of a patch in pixels.
        skip_channels: Channels of the finer backbone features; 0 if there are none.
        out_channels: Number of raw maps.
    """

    def __init__(
        self,
        config: LinearHeadConfig,
        feature_widths: Sequence[int],
        patch_size: int,
        skip_channels: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        channels = config.channels
        # A patch of 16 is expanded to 4 x 4 cells of 4 pixels, a patch of 14 to 2 x 2 cells of 7.
        self.upscale = 4 if patch_size % 4 == 0 else 2
        self.final_upscale = patch_size // self.upscale
        self.fuse = nn.Linear(sum(feature_widths), config.width)
        self.norm = nn.LayerNorm(config.width)
        self.spread = nn.Linear(config.width, self.upscale**2 * channels)
        self.skip = nn.Conv2d(skip_channels, channels, 1) if skip_channels else None
        self.residual1 = ResidualConvolutions(channels, F.gelu)
        self.residual2 = ResidualConvolutions(channels, F.gelu)
        self.out = nn.Conv2d(channels, self.final_upscale**2 * out_channels, 1)

    def forward(
        self,
        features: Sequence[Float[Tensor, "n patches _"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None,
    ) -> Float[Tensor, "n out_channels height width"]:
        """Predict raw maps. See `DenseHead.forward`."""
        tokens = self.spread(self.norm(self.fuse(torch.cat(list(features), dim=-1))))
        maps = F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, grid), self.upscale)
        if self.skip is not None:
            assert skip is not None
            maps = maps + match_size(self.skip(skip), maps)
        maps = self.residual2(self.residual1(maps))
        with torch.autocast(maps.device.type, enabled=False):
            return F.pixel_shuffle(self.out(full_precision(F.gelu(maps))), self.final_upscale)

    def initialize(self, bias: Float[Tensor, "out_channels"]) -> None:
        """See `DenseHead.initialize`."""
        nn.init.normal_(self.out.weight, std=0.01)
        assert self.out.bias is not None
        with torch.no_grad():
            self.out.bias.copy_(bias.repeat_interleave(self.final_upscale**2))

    def shift(self, channel: int, amount: float) -> None:
        """See `DenseHead.shift`."""
        shift_bias(self.out, channel, self.final_upscale**2, amount)
