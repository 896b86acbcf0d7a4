"""DualDPT head of Depth Anything 3: depth at full resolution, and rays at 8 x 8 per patch, from one set of levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.heads.activations import decode_confidence
from recon4d.heads.dpt import HIDDEN_CHANNELS, DptHead, DptHeadConfig, upsample_by_two
from recon4d.heads.pyramid import create_fusion, fuse
from recon4d.heads.uv_positions import add_uv_positions
from recon4d.records import full_precision

RAY_CHANNELS = 7
"""Direction (3), origin (3) and raw confidence of a ray."""


class Rays(NamedTuple):
    """Rays through the cells of each image: the point at depth z is origin + z * direction, in world coordinates."""

    directions: Float[Tensor, "*batch time rows columns 3"]
    """Directions in the world, not of unit length."""
    origins: Float[Tensor, "*batch time rows columns 3"]
    """Camera centers in the world, as seen from each cell."""
    confidence: Float[Tensor, "*batch time rows columns"]
    """Confidence, at least 1."""


@dataclass(frozen=True)
class DualDptHeadConfig:
    """Configuration of a DualDPT head; the defaults are those of DA3-LARGE."""

    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Channels of the four pyramid levels before fusion, fine to coarse."""
    features: int = 256
    """Channels of the fused maps; a multiple of 8."""


class DualDptHead(DptHead):
    """DPT head with a second fusion of the same levels, which predicts rays. `forward` predicts depth only.

    Args:
        config: Configuration of the head.
        feature_widths: Channels of the patch tokens of each layer.
        patch_size: Side of a patch in pixels.
        skip_channels: Channels of the finer backbone features; 0 if there are none.
        out_channels: Number of raw maps.
    """

    def __init__(
        self,
        config: DualDptHeadConfig,
        feature_widths: Sequence[int],
        patch_size: int,
        skip_channels: int,
        out_channels: int,
    ) -> None:
        depth = DptHeadConfig(config.channels, config.features, rectified=False)
        super().__init__(depth, feature_widths, patch_size, skip_channels, out_channels)
        self.rays = RayBranch(config.features)

    def forward_with_rays(
        self,
        features: Sequence[Float[Tensor, "n patches _"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None,
    ) -> tuple[Float[Tensor, "n out_channels height width"], Float[Tensor, "n ray_channels rows columns"]]:
        """Predict raw maps and rays.

        Args:
            features: Patch tokens of each layer, in row-major order.
            grid: Number of rows and columns of patches.
            skip: Finer backbone features of the same images, if the backbone provides them.

        Returns:
            Raw maps of the image size, and raw rays (`decode_rays`).
        """
        levels = self.pyramid.levels(features, grid, skip)
        return self.maps_of(fuse(self.pyramid.fusion, levels), grid), self.rays(levels, grid)


class RayBranch(nn.Module):
    """Fuses the levels of a pyramid and predicts raw rays.

    Args:
        features: Channels of every level.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        half = features // 2
        self.fusion = create_fusion(features, rectified=False)
        widths = [features, half, features, half, features, half]
        # Nothing between the convolutions, as published.
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        )
        self.hidden = nn.Conv2d(half, HIDDEN_CHANNELS, 3, padding=1)
        self.norm = nn.LayerNorm(HIDDEN_CHANNELS)
        self.out = nn.Conv2d(HIDDEN_CHANNELS, RAY_CHANNELS, 1)

    def forward(
        self, levels: Sequence[Float[Tensor, "n features _ _"]], grid: tuple[int, int]
    ) -> Float[Tensor, "n ray_channels rows columns"]:
        """Predict raw rays.

        Args:
            levels: Levels of the pyramid, fine to coarse.
            grid: Number of rows and columns of patches.

        Returns:
            Raw rays, 8 rows and columns per patch.
        """
        maps = self.convolutions(upsample_by_two(fuse(self.fusion, levels)))
        with torch.autocast(maps.device.type, enabled=False):
            hidden = self.hidden(add_uv_positions(full_precision(maps), grid[1] / grid[0]))
            normalized = self.norm(hidden.movedim(1, -1)).movedim(-1, 1)
            return self.out(F.relu(normalized))


def decode_rays(raw: Float[Tensor, "*batch ray_channels rows columns"]) -> Rays:
    """Convert raw rays to directions, origins and confidence.

    Args:
        raw: Output of `RayBranch`.

    Returns:
        The rays.
    """
    vectors = raw.movedim(-3, -1)
    return Rays(vectors[..., :3], vectors[..., 3:6], decode_confidence(raw[..., 6, :, :]))
