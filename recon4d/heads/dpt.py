"""The DPT dense head: four layers of tokens as a feature pyramid, fused from coarse to fine (Ranftl et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.heads.dense import DenseHead, ResidualConvolutions, match_size
from recon4d.tensors import full_precision

LEVELS = 4


@dataclass(frozen=True)
class DptHeadConfig:
    """Channels of the four levels before fusion (fine to coarse), and of the fused maps."""

    channels: tuple[int, int, int, int] = (96, 192, 384, 384)
    features: int = 128


class DptHead(DenseHead):
    """Levels at 4x, 2x, 1x and 1/2 of the token grid; fewer than four taps serve several levels each."""

    def __init__(
        self,
        config: DptHeadConfig,
        tap_widths: Sequence[int],
        patch_size: int,
        skip_channels: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        features = config.features
        self.patch_size = patch_size
        # Fine levels from early layers, coarse from late ones, evenly.
        self.tap_of_level = [round(level * (len(tap_widths) - 1) / (LEVELS - 1)) for level in range(LEVELS)]
        self.norms = nn.ModuleList([nn.LayerNorm(width) for width in tap_widths])
        self.project = nn.ModuleList(
            [
                nn.Conv2d(tap_widths[tap], channels, 1)
                for tap, channels in zip(self.tap_of_level, config.channels, strict=True)
            ]
        )
        first, second, _, last = config.channels
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(last, last, 3, stride=2, padding=1),
            ]
        )
        self.to_features = nn.ModuleList(
            [nn.Conv2d(channels, features, 3, padding=1, bias=False) for channels in config.channels]
        )
        self.skip = nn.Conv2d(skip_channels, features, 1) if skip_channels else None
        self.fusion = nn.ModuleList([_Fusion(features, has_coarser=level < LEVELS - 1) for level in range(LEVELS)])
        self.hidden1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.hidden2 = nn.Conv2d(features // 2, 32, 3, padding=1)
        self.out = nn.Conv2d(32, out_channels, 1)

    def forward(
        self,
        taps: Sequence[Float[Tensor, "n patches _"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None,
    ) -> Float[Tensor, "n out_channels height width"]:
        levels = []
        for level, tap in enumerate(self.tap_of_level):
            tokens = self.norms[tap](taps[tap])
            maps = self.project[level](tokens.transpose(1, 2).unflatten(2, grid))
            levels.append(self.to_features[level](self.resize[level](maps)))
        if self.skip is not None:
            assert skip is not None
            levels[0] = levels[0] + match_size(self.skip(skip), levels[0])

        fused = None
        for level in reversed(range(LEVELS)):
            finer = levels[max(level - 1, 0)].shape[-2:]
            size = finer if level > 0 else (2 * finer[0], 2 * finer[1])
            fused = self.fusion[level](fused, levels[level], size)
        size = (grid[0] * self.patch_size, grid[1] * self.patch_size)
        maps = F.interpolate(self.hidden1(fused), size, mode="bilinear", align_corners=False)
        with torch.autocast(maps.device.type, enabled=False):
            return self.out(full_precision(F.relu(self.hidden2(full_precision(maps)))))

    def initialise(self, bias: Float[Tensor, "out_channels"]) -> None:
        nn.init.normal_(self.out.weight, std=0.01)
        assert self.out.bias is not None
        with torch.no_grad():
            self.out.bias.copy_(bias)


class _Fusion(nn.Module):
    """The coarser map (where there is one) plus this level's, refined and resized to the next finer level."""

    def __init__(self, features: int, has_coarser: bool) -> None:
        super().__init__()
        self.refine_level = ResidualConvolutions(features, F.relu) if has_coarser else None
        self.refine_sum = ResidualConvolutions(features, F.relu)
        self.out = nn.Conv2d(features, features, 1)

    def forward(self, coarser: Tensor | None, level: Tensor, size: tuple[int, int]) -> Tensor:
        if self.refine_level is not None:
            level = coarser + self.refine_level(level)
        refined = self.refine_sum(level)
        return self.out(F.interpolate(refined, size, mode="bilinear", align_corners=False))
