"""DPT heads (Ranftl et al. 2021) on a common pyramid: full-resolution maps, and features at half resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.errors import UserError
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
"""Channels at full resolution before the last convolution (VGGT)."""


@dataclass(frozen=True)
class DptHeadConfig:
    """Configuration of a DPT head. VGGT's heads have channels (256, 512, 1024, 1024) and 256 features."""

    channels: tuple[int, int, int, int] = (96, 192, 384, 384)
    """Channels of the four pyramid levels before fusion, fine to coarse."""
    features: int = 128
    """Channels of the fused maps; a multiple of 8."""
    rectified: bool = True
    """Whether residual units rectify their identity branch too, as VGGT's do."""

    def __post_init__(self) -> None:
        if self.features % 8:
            raise UserError(f"features is {self.features}; wanted a multiple of 8 (half of them encode positions)")


class DptHead(DenseHead):
    """DPT head as in VGGT's depth and point heads: sharp, at the cost of convolutions at full resolution.

    Args:
        config: Configuration of the head.
        feature_widths: Channels of the patch tokens of each layer.
        patch_size: Side of a patch in pixels.
        skip_channels: Channels of the finer backbone features; 0 if there are none.
        out_channels: Number of raw maps.
    """

    def __init__(
        self,
        config: DptHeadConfig,
        feature_widths: Sequence[int],
        patch_size: int,
        skip_channels: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        pyramid = PyramidConfig(config.channels, config.features, rectified=config.rectified)
        self.pyramid = Pyramid(pyramid, feature_widths, skip_channels)
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
        """Predict raw maps. See `DenseHead.forward`."""
        return self.maps_of(self.pyramid(features, grid, skip), grid)

    def maps_of(
        self, fused: Float[Tensor, "n features finest_height finest_width"], grid: tuple[int, int]
    ) -> Float[Tensor, "n out_channels height width"]:
        """Predict raw maps from the fused features of the pyramid.

        Args:
            fused: Output of the pyramid.
            grid: Number of rows and columns of patches.

        Returns:
            Raw maps of the image size.
        """
        maps = self.hidden1(upsample_by_two(fused))
        maps = resize_by_corners(maps, (grid[0] * self.patch_size, grid[1] * self.patch_size))
        with torch.autocast(maps.device.type, enabled=False):
            maps = add_uv_positions(full_precision(maps), grid[1] / grid[0])
            return self.out(F.relu(self.hidden2(maps)))

    def initialize(self, bias: Float[Tensor, "out_channels"]) -> None:
        """See `DenseHead.initialize`."""
        initialize_constant(self.out, bias)

    def shift(self, channel: int, amount: float) -> None:
        """See `DenseHead.shift`."""
        shift_bias(self.out, channel, 1, amount)


@dataclass(frozen=True)
class ShuffleHeadConfig:
    """Configuration of VGGT-Omega's dense head; the defaults are the published ones."""

    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Channels of the four pyramid levels before fusion, fine to coarse."""
    features: int = 256
    """Channels of the fused maps; a multiple of 4."""

    def __post_init__(self) -> None:
        if self.features % 4:
            raise UserError(f"features is {self.features}; wanted a multiple of 4 for the position encoding")


class ShuffleHead(DenseHead):
    """Dense head of VGGT-Omega: pixel shuffling converts each feature at quarter resolution to a block of pixels.

    Its residual units are plain, not rectified.

    Args:
        config: Configuration of the head.
        feature_widths: Channels of the patch tokens of each layer.
        patch_size: Side of a patch in pixels; a multiple of 4.
        skip_channels: Channels of the finer backbone features; 0 if there are none.
        out_channels: Number of raw maps.

    Raises:
        UserError: If the patch size is not a multiple of 4.
    """

    def __init__(
        self,
        config: ShuffleHeadConfig,
        feature_widths: Sequence[int],
        patch_size: int,
        skip_channels: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        if patch_size % FINEST_PER_PATCH:
            raise UserError(f"the patch size is {patch_size}; wanted a multiple of {FINEST_PER_PATCH}, or the DPT head")
        self.upscale = patch_size // FINEST_PER_PATCH
        pyramid = PyramidConfig(config.channels, config.features, rectified=False)
        self.pyramid = Pyramid(pyramid, feature_widths, skip_channels)
        self.out = nn.Conv2d(config.features, self.upscale**2 * out_channels, 1)

    def forward(
        self,
        features: Sequence[Float[Tensor, "n patches _"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None,
    ) -> Float[Tensor, "n out_channels height width"]:
        """Predict raw maps. See `DenseHead.forward`."""
        fused = self.pyramid(features, grid, skip)
        with torch.autocast(fused.device.type, enabled=False):
            maps = add_uv_positions(full_precision(fused), grid[1] / grid[0])
            return F.pixel_shuffle(self.out(maps), self.upscale)

    def initialize(self, bias: Float[Tensor, "out_channels"]) -> None:
        """See `DenseHead.initialize`."""
        initialize_constant(self.out, bias.repeat_interleave(self.upscale**2))

    def shift(self, channel: int, amount: float) -> None:
        """See `DenseHead.shift`."""
        shift_bias(self.out, channel, self.upscale**2, amount)


@dataclass(frozen=True)
class DptFeaturesConfig:
    """Configuration of the tracker's feature maps; the defaults are VGGT's."""

    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Channels of the four pyramid levels before fusion, fine to coarse."""
    features: int = 128
    """Channels of the feature maps."""


class DptFeatures(nn.Module):
    """Feature maps at half resolution for a tracker, without position encoding: features are translation invariant.

    Args:
        config: Configuration of the maps.
        feature_widths: Channels of the patch tokens of each layer.
        patch_size: Side of a patch in pixels; even.
    """

    def __init__(self, config: DptFeaturesConfig, feature_widths: Sequence[int], patch_size: int) -> None:
        super().__init__()
        assert patch_size % 2 == 0
        self.patch_size = patch_size
        self.pyramid = Pyramid(PyramidConfig(config.channels, config.features, positions=False), feature_widths)
        self.out = nn.Conv2d(config.features, config.features, 3, padding=1)

    def forward(
        self, features: Sequence[Float[Tensor, "n patches _"]], grid: tuple[int, int]
    ) -> Float[Tensor, "n features half_height half_width"]:
        """Compute the feature maps of n images.

        Args:
            features: Patch tokens of each layer, in row-major order.
            grid: Number of rows and columns of patches.

        Returns:
            Feature maps at half of the image size.
        """
        maps = self.out(upsample_by_two(self.pyramid(features, grid)))
        return resize_by_corners(maps, (grid[0] * self.patch_size // 2, grid[1] * self.patch_size // 2))


def upsample_by_two(maps: Float[Tensor, "n channels rows columns"]) -> Float[Tensor, "n channels _ _"]:
    """Resize maps bilinearly to twice their size, with aligned corners.

    Args:
        maps: Maps of any size.

    Returns:
        Maps with twice as many rows and columns.
    """
    return resize_by_corners(maps, (2 * maps.shape[-2], 2 * maps.shape[-1]))


def initialize_constant(out: nn.Conv2d, bias: Float[Tensor, "out_channels"]) -> None:
    """Initialize a layer so that every output channel is close to its constant.

    Args:
        out: The last layer of a head.
        bias: Constant of each channel.
    """
    nn.init.normal_(out.weight, std=0.01)
    assert out.bias is not None
    with torch.no_grad():
        out.bias.copy_(bias)
