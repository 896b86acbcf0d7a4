"""DPT heads: three ends of one pyramid (`pyramid`), for maps of the full size and for features of half of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.heads.dense import DenseHead, shift_bias
from recon4d.heads.pyramid import (
    FINEST_PER_PATCH,
    Pyramid,
    PyramidConfig,
    resize_by_corners,
)
from recon4d.heads.uv_positions import add_uv_positions
from recon4d.records import full_precision

HIDDEN_CHANNELS = 32
"""Channels at the full size, before the last convolution."""


@dataclass(frozen=True)
class DptHeadConfig:
    """Channels of the four levels before fusion (fine to coarse), and of the fused maps.

    VGGT's depth and point heads have channels (256, 512, 1024, 1024) and 256 features.
    """

    channels: tuple[int, int, int, int] = (96, 192, 384, 384)
    features: int = 128

    def __post_init__(self) -> None:
        if self.features % 8:
            raise ValueError(f"{self.features} features must be a multiple of 8: half of them hold positions")


class DptHead(DenseHead):
    """The convolutional end of VGGT's depth and point heads: sharp, at the price of convolutions at the full size."""

    def __init__(
        self,
        config: DptHeadConfig,
        tap_widths: Sequence[int],
        patch_size: int,
        skip_channels: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.pyramid = Pyramid(PyramidConfig(config.channels, config.features), tap_widths, skip_channels)
        half = config.features // 2
        self.hidden1 = nn.Conv2d(config.features, half, 3, padding=1)
        self.hidden2 = nn.Conv2d(half, HIDDEN_CHANNELS, 3, padding=1)
        self.out = nn.Conv2d(HIDDEN_CHANNELS, out_channels, 1)

    def forward(
        self,
        features: Sequence[Float[Tensor, "n patches _"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None,
    ) -> Float[Tensor, "n out_channels height width"]:
        maps = self.hidden1(_twice_as_fine(self.pyramid(features, grid, skip)))
        maps = resize_by_corners(maps, (grid[0] * self.patch_size, grid[1] * self.patch_size))
        with torch.autocast(maps.device.type, enabled=False):
            maps = add_uv_positions(full_precision(maps), grid[1] / grid[0])
            return self.out(F.relu(self.hidden2(maps)))

    def initialize(self, bias: Float[Tensor, "out_channels"]) -> None:
        _start_near(self.out, bias)

    def shift(self, channel: int, amount: float) -> None:
        shift_bias(self.out, channel, 1, amount)


@dataclass(frozen=True)
class ShuffleHeadConfig:
    """Channels of the four levels before fusion (fine to coarse), and of the fused maps, as in VGGT-Omega."""

    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    features: int = 256

    def __post_init__(self) -> None:
        if self.features % 4:
            raise ValueError(f"{self.features} features must be a multiple of 4, to hold positions")


class ShuffleHead(DenseHead):
    """The end of VGGT-Omega's dense head: each feature at a quarter of the size becomes a block of pixels.

    Its residual units are plain, not rectified. Raises ``ValueError`` for patches that have no quarter.
    """

    def __init__(
        self,
        config: ShuffleHeadConfig,
        tap_widths: Sequence[int],
        patch_size: int,
        skip_channels: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        if patch_size % FINEST_PER_PATCH:
            raise ValueError(f"patches of {patch_size} pixels do not split into {FINEST_PER_PATCH}; use the DPT head")
        self.upscale = patch_size // FINEST_PER_PATCH
        pyramid = PyramidConfig(config.channels, config.features, rectified=False)
        self.pyramid = Pyramid(pyramid, tap_widths, skip_channels)
        self.out = nn.Conv2d(config.features, self.upscale**2 * out_channels, 1)

    def forward(
        self,
        features: Sequence[Float[Tensor, "n patches _"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None,
    ) -> Float[Tensor, "n out_channels height width"]:
        fused = self.pyramid(features, grid, skip)
        with torch.autocast(fused.device.type, enabled=False):
            maps = add_uv_positions(full_precision(fused), grid[1] / grid[0])
            return F.pixel_shuffle(self.out(maps), self.upscale)

    def initialize(self, bias: Float[Tensor, "out_channels"]) -> None:
        _start_near(self.out, bias.repeat_interleave(self.upscale**2))

    def shift(self, channel: int, amount: float) -> None:
        shift_bias(self.out, channel, self.upscale**2, amount)


@dataclass(frozen=True)
class DptFeaturesConfig:
    """Channels of the four levels before fusion (fine to coarse), and of the features, as VGGT's tracker has them."""

    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    features: int = 128


class DptFeatures(nn.Module):
    """Feature maps at half the size of the picture, for a tracker: no positions, so that a point looks alike anywhere.

    The patch size must be even.
    """

    def __init__(self, config: DptFeaturesConfig, tap_widths: Sequence[int], patch_size: int) -> None:
        super().__init__()
        assert patch_size % 2 == 0
        self.patch_size = patch_size
        self.pyramid = Pyramid(PyramidConfig(config.channels, config.features, positions=False), tap_widths)
        self.out = nn.Conv2d(config.features, config.features, 3, padding=1)

    def forward(
        self, features: Sequence[Float[Tensor, "n patches _"]], grid: tuple[int, int]
    ) -> Float[Tensor, "n features half_height half_width"]:
        """Features of n pictures; `grid` counts patches (rows, columns)."""
        maps = self.out(_twice_as_fine(self.pyramid(features, grid)))
        return resize_by_corners(maps, (grid[0] * self.patch_size // 2, grid[1] * self.patch_size // 2))


def _twice_as_fine(maps: Tensor) -> Tensor:
    return resize_by_corners(maps, (2 * maps.shape[-2], 2 * maps.shape[-1]))


def _start_near(out: nn.Conv2d, bias: Tensor) -> None:
    """Every channel of the answer close to its constant."""
    nn.init.normal_(out.weight, std=0.01)
    assert out.bias is not None
    with torch.no_grad():
        out.bias.copy_(bias)
