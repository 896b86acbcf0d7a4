"""The linear dense head: each patch token becomes a block of pixels, smoothed by a few convolutions."""

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
    """Width of the tokens once the taps are fused, and of the feature maps at about a quarter of the picture."""

    width: int = 384
    channels: int = 64


class LinearHead(DenseHead):
    """Taps are fused, spread over about stride 4, joined by finer features, and spread to the full size."""

    def __init__(
        self,
        config: LinearHeadConfig,
        tap_widths: Sequence[int],
        patch_size: int,
        skip_channels: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        channels = config.channels
        # 4 x 4 for patches of 16; patches of 14 have only 2 x 7.
        self.upscale = 4 if patch_size % 4 == 0 else 2
        self.final_upscale = patch_size // self.upscale
        self.fuse = nn.Linear(sum(tap_widths), config.width)
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
        tokens = self.spread(self.norm(self.fuse(torch.cat(list(features), dim=-1))))
        maps = F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, grid), self.upscale)
        if self.skip is not None:
            assert skip is not None
            maps = maps + match_size(self.skip(skip), maps)
        maps = self.residual2(self.residual1(maps))
        with torch.autocast(maps.device.type, enabled=False):
            return F.pixel_shuffle(self.out(full_precision(F.gelu(maps))), self.final_upscale)

    def initialize(self, bias: Float[Tensor, "out_channels"]) -> None:
        nn.init.normal_(self.out.weight, std=0.01)
        assert self.out.bias is not None
        with torch.no_grad():
            self.out.bias.copy_(bias.repeat_interleave(self.final_upscale**2))

    def shift(self, channel: int, amount: float) -> None:
        shift_bias(self.out, channel, self.final_upscale**2, amount)
