"""The trunk of DPT: layers of tokens as a pyramid of feature maps, fused from coarse to fine (Ranftl et al. 2021).

Numbers and order are those of VGGT (Wang et al. 2025), so that its published weights run here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.heads.dense import ResidualConvolutions, match_size
from recon4d.heads.uv_positions import add_uv_positions

LEVELS = 4
FINEST_PER_PATCH = 4
"""Rows and columns of the finest level for each patch; the other levels have 2, 1 and a half."""


@dataclass(frozen=True)
class PyramidConfig:
    """The shape of a pyramid; each head that stands on one says which it needs."""

    channels: tuple[int, int, int, int]
    """Channels of the four levels before fusion, fine to coarse."""
    features: int
    """Channels of every level in fusion, and of the answer."""
    positions: bool = True
    """Whether each level is told where its features lie (`uv_positions`)."""
    rectified: bool = True
    """Whether a residual unit also rectifies what it adds to: VGGT does, VGGT-Omega does not."""

    def __post_init__(self) -> None:
        if self.positions and any(channels % 4 for channels in self.channels):
            raise ValueError(f"channels {self.channels} must be multiples of 4, to hold sines and cosines of x and y")


class Pyramid(nn.Module):
    """Levels at 4x, 2x, 1x and 1/2 of the token grid; fewer than four taps serve several levels each."""

    def __init__(self, config: PyramidConfig, tap_widths: Sequence[int], skip_channels: int = 0) -> None:
        super().__init__()
        assert len(set(tap_widths)) == 1, "one norm serves all taps: the projections after it tell them apart"
        width, features = tap_widths[0], config.features
        self.positions = config.positions
        # Fine levels from early layers, coarse from late ones, evenly.
        self.tap_of_level = [round(level * (len(tap_widths) - 1) / (LEVELS - 1)) for level in range(LEVELS)]
        self.norm = nn.LayerNorm(width)
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
        residual = RectifiedConvolutions if config.rectified else PlainConvolutions
        self.fusion = nn.ModuleList([_Fusion(features, residual, level < LEVELS - 1) for level in range(LEVELS)])

    def forward(
        self,
        features: Sequence[Float[Tensor, "n patches tap_width"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None = None,
    ) -> Float[Tensor, "n features finest_height finest_width"]:
        """Fused features, 4 x 4 for each patch of the (rows, columns) `grid`."""
        levels = [self._level(level, features[tap], grid) for level, tap in enumerate(self.tap_of_level)]
        if self.skip is not None:
            assert skip is not None
            levels[0] = levels[0] + match_size(self.skip(skip), levels[0])

        fused = self.fusion[-1](levels[-1], None)
        for level in reversed(range(LEVELS - 1)):
            coarser = resize_by_corners(fused, (levels[level].shape[-2], levels[level].shape[-1]))
            fused = self.fusion[level](levels[level], coarser)
        return fused

    def _level(self, level: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The tokens of one tap as the feature maps of one level."""
        maps = self.project[level](self.norm(tokens).transpose(1, 2).unflatten(2, grid))
        if self.positions:
            maps = add_uv_positions(maps, grid[1] / grid[0])
        return self.to_features[level](self.resize[level](maps))


class PlainConvolutions(ResidualConvolutions):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, F.relu)


class RectifiedConvolutions(PlainConvolutions):
    """relu(x) + conv(relu(conv(relu(x)))): what a residual unit is when its first ReLU works in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(x))


def resize_by_corners(
    maps: Float[Tensor, "n channels _ _"], size: tuple[int, int]
) -> Float[Tensor, "n channels height width"]:
    """Bilinear, the centers of the corner pixels staying the corners of the picture: a ramp stays a ramp."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


class _Fusion(nn.Module):
    """A level plus the coarser map (where there is one), refined.

    The 1x1 convolution comes before the resize that follows, not after it as in DPT: the two commute, since bilinear
    weights sum to one, and this way it has a quarter of the pixels.
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
