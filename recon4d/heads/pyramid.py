"""The feature pyramid of DPT (Ranftl et al. 2021): tokens of several layers, fused from coarse to fine.

Operations and their order are those of VGGT (Wang et al. 2025), so that its published weights can be used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.errors import UserError
from recon4d.heads.dense import ResidualConvolutions, match_size
from recon4d.heads.uv_positions import add_uv_positions

LEVELS = 4
"""Number of pyramid levels (DPT)."""
FINEST_PER_PATCH = 4
"""Rows and columns of the finest level per patch (DPT); the other levels have 2, 1 and 1/2."""


@dataclass(frozen=True)
class PyramidConfig:
    """Configuration of a pyramid."""

    channels: tuple[int, int, int, int]
    """Channels of the four levels before fusion, fine to coarse."""
    features: int
    """Channels of every level during fusion, and of the output."""
    positions: bool = True
    """Whether position encodings are added to each level (`uv_positions`)."""
    rectified: bool = True
    """Whether residual units rectify their identity branch too: true for VGGT, false for VGGT-Omega and Depth Anything
    3."""
    norm: bool = True
    """Whether the tokens pass through a LayerNorm first."""

    def __post_init__(self) -> None:
        if self.positions and any(channels % 4 for channels in self.channels):
            raise UserError(f"channels are {self.channels}; wanted multiples of 4 for sines and cosines of x and y")


class Pyramid(nn.Module):
    """Pyramid with levels at 4x, 2x, 1x and 1/2 of the token grid; fewer than four layers serve several levels each.

    Args:
        config: Configuration of the pyramid.
        feature_widths: Channels of the patch tokens of each layer, all equal.
        skip_channels: Channels of finer backbone features; 0 if there are none.
    """

    def __init__(self, config: PyramidConfig, feature_widths: Sequence[int], skip_channels: int = 0) -> None:
        super().__init__()
        assert len(set(feature_widths)) == 1, "all layers share one norm"
        width, features = feature_widths[0], config.features
        self.positions = config.positions
        # Early layers feed fine levels and late layers coarse levels, evenly distributed.
        self.layer_of_level = [round(level * (len(feature_widths) - 1) / (LEVELS - 1)) for level in range(LEVELS)]
        self.norm = nn.LayerNorm(width) if config.norm else nn.Identity()
        self.project = nn.ModuleList([nn.Conv2d(width, channels, 1) for channels in config.channels])
        first, second, _, last = config.channels
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, FINEST_PER_PATCH, stride=FINEST_PER_PATCH),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(last, last, 3, stride=2, padding=1),
            ]
        )
        self.to_features = nn.ModuleList(
            [nn.Conv2d(channels, features, 3, padding=1, bias=False) for channels in config.channels]
        )
        self.skip = nn.Conv2d(skip_channels, features, 1) if skip_channels else None
        self.fusion = create_fusion(features, config.rectified)

    def forward(
        self,
        features: Sequence[Float[Tensor, "n patches feature_width"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None = None,
    ) -> Float[Tensor, "n features finest_height finest_width"]:
        """Fuse the levels from coarse to fine.

        Args:
            features: Patch tokens of each layer, in row-major order.
            grid: Number of rows and columns of patches.
            skip: Finer backbone features, added to the finest level.

        Returns:
            Fused features, 4 x 4 per patch.
        """
        return fuse(self.fusion, self.levels(features, grid, skip))

    def levels(
        self,
        features: Sequence[Float[Tensor, "n patches feature_width"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None = None,
    ) -> list[Float[Tensor, "n features _ _"]]:
        """Compute the levels before they are fused.

        Args:
            features: Patch tokens of each layer, in row-major order.
            grid: Number of rows and columns of patches.
            skip: Finer backbone features, added to the finest level.

        Returns:
            Feature maps of the four levels, fine to coarse.
        """
        levels = [self._level(level, features[layer], grid) for level, layer in enumerate(self.layer_of_level)]
        if self.skip is not None:
            assert skip is not None
            levels[0] = levels[0] + match_size(self.skip(skip), levels[0])
        return levels

    def _level(self, level: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Convert the tokens of one layer to the feature maps of one level."""
        maps = self.project[level](self.norm(tokens).transpose(1, 2).unflatten(2, grid))
        if self.positions:
            maps = add_uv_positions(maps, grid[1] / grid[0])
        return self.to_features[level](self.resize[level](maps))


def create_fusion(features: int, rectified: bool) -> nn.ModuleList:
    """Create the modules that fuse the levels of a pyramid.

    Args:
        features: Channels of every level.
        rectified: Whether residual units rectify their identity branch too.

    Returns:
        One module for each level, fine to coarse.
    """
    residual = RectifiedConvolutions if rectified else PlainConvolutions
    return nn.ModuleList([_Fusion(features, residual, level < LEVELS - 1) for level in range(LEVELS)])


def fuse(fusion: nn.ModuleList, levels: Sequence[Float[Tensor, "n features _ _"]]) -> Float[Tensor, "n features _ _"]:
    """Fuse the levels of a pyramid from coarse to fine.

    Args:
        fusion: Modules of `create_fusion`.
        levels: Feature maps of the levels, fine to coarse.

    Returns:
        Fused features of the size of the finest level.
    """
    fused = fusion[-1](levels[-1], None)
    for level in reversed(range(LEVELS - 1)):
        coarser = resize_by_corners(fused, (levels[level].shape[-2], levels[level].shape[-1]))
        fused = fusion[level](levels[level], coarser)
    return fused


class PlainConvolutions(ResidualConvolutions):
    """Residual unit x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, F.relu)


class RectifiedConvolutions(PlainConvolutions):
    """Residual unit relu(x) + conv(relu(conv(relu(x)))), the effect of an in-place first ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit to maps (n, channels, height, width)."""
        return super().forward(F.relu(x))


def resize_by_corners(
    maps: Float[Tensor, "n channels _ _"], size: tuple[int, int]
) -> Float[Tensor, "n channels height width"]:
    """Resize maps bilinearly with aligned corners.

    Args:
        maps: Maps of any size.
        size: Wanted height and width.

    Returns:
        Maps of the wanted size; the centers of corner cells map to each other.
    """
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


class _Fusion(nn.Module):
    """Adds the coarser map, if there is one, to a level and refines the sum.

    The 1x1 convolution precedes the following resize, unlike in DPT. The two commute because bilinear weights sum to
    one, and this order has a quarter of the pixels.
    """

    def __init__(self, features: int, residual: type[PlainConvolutions], has_coarser: bool) -> None:
        super().__init__()
        self.refine_level = residual(features) if has_coarser else None
        self.refine_sum = residual(features)
        self.out = nn.Conv2d(features, features, 1)

    def forward(self, level: Tensor, coarser: Tensor | None) -> Tensor:
        if self.refine_level is not None:
            level = coarser + self.refine_level(level)
        return self.out(self.refine_sum(level))
