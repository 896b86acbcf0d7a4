"""Dense head of Depth Anything 3's monocular models: depth and sky from one pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.heads.activations import decode_positive
from recon4d.heads.dpt import HIDDEN_CHANNELS, initialize_constant, upsample_by_two
from recon4d.heads.pyramid import Pyramid, PyramidConfig, resize_by_corners
from recon4d.records import full_precision


class DepthAndSky(NamedTuple):
    """Maps of the image size."""

    depth: Float[Tensor, "n height width"]
    """Depth (z), above 0."""
    sky: Float[Tensor, "n height width"]
    """Evidence for sky, at least 0; about 1 for sky."""


@dataclass(frozen=True)
class SkyDptHeadConfig:
    """Configuration of the head; the defaults are the published ones."""

    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Channels of the four pyramid levels before fusion, fine to coarse."""
    features: int = 256
    """Channels of the fused maps; even."""


class SkyDptHead(nn.Module):
    """DPT head without norm and position encodings that predicts depth, without confidence, and sky.

    Args:
        config: Configuration of the head.
        feature_widths: Channels of the patch tokens of each layer.
        patch_size: Side of a patch in pixels.
    """

    def __init__(self, config: SkyDptHeadConfig, feature_widths: Sequence[int], patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        pyramid = PyramidConfig(config.channels, config.features, positions=False, rectified=False, norm=False)
        self.pyramid = Pyramid(pyramid, feature_widths)
        half = config.features // 2
        self.hidden = nn.Conv2d(config.features, half, 3, padding=1)
        self.depth_hidden = nn.Conv2d(half, HIDDEN_CHANNELS, 3, padding=1)
        self.depth_out = nn.Conv2d(HIDDEN_CHANNELS, 1, 1)
        self.sky_hidden = nn.Conv2d(half, HIDDEN_CHANNELS, 3, padding=1)
        self.sky_out = nn.Conv2d(HIDDEN_CHANNELS, 1, 1)

    def reset_parameters(self) -> None:
        """Initialize depth to 1 and sky to 0."""
        for out in (self.depth_out, self.sky_out):
            initialize_constant(out, torch.zeros(1))

    def forward(self, features: Sequence[Float[Tensor, "n patches _"]], grid: tuple[int, int]) -> DepthAndSky:
        """Predict depth and sky.

        Args:
            features: Patch tokens of each layer, in row-major order.
            grid: Number of rows and columns of patches.

        Returns:
            Maps of the image size.
        """
        maps = self.hidden(upsample_by_two(self.pyramid(features, grid)))
        maps = resize_by_corners(maps, (grid[0] * self.patch_size, grid[1] * self.patch_size))
        with torch.autocast(maps.device.type, enabled=False):
            maps = full_precision(maps)
            depth = self.depth_out(F.relu(self.depth_hidden(maps)))
            sky = self.sky_out(F.relu(self.sky_hidden(maps)))
            return DepthAndSky(decode_positive(depth[:, 0]), F.relu(sky[:, 0]))
