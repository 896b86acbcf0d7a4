"""What every dense head promises: tokens of some layers in, one map of raw numbers for every pixel out."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class DenseHead(nn.Module):
    """Turns the patch tokens of tapped layers into maps at the full size of the picture.

    Constructed as ``(config, tap_widths, patch_size, skip_channels, out_channels)``. The last convolution runs in
    float32, since depths are exponentials of what it answers.
    """

    out: nn.Conv2d
    """The last layer, whose bias says where each map starts."""

    @abstractmethod
    def forward(
        self,
        features: Sequence[Float[Tensor, "n patches _"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None,
    ) -> Float[Tensor, "n out_channels height width"]:
        """Raw maps; `grid` counts patches (rows, columns), `skip` are finer features of the same pictures."""

    @abstractmethod
    def initialize(self, bias: Float[Tensor, "out_channels"]) -> None:
        """Start every map near its constant `bias`."""

    @abstractmethod
    def shift(self, channel: int, amount: float) -> None:
        """Add `amount` to all of one map, from now on."""


def shift_bias(out: nn.Conv2d, channel: int, places: int, amount: float) -> None:
    """Add to the map `channel` of an answer that has `places` channels for each map, side by side."""
    assert out.bias is not None
    with torch.no_grad():
        out.bias[channel * places : (channel + 1) * places] += amount


class ResidualConvolutions(nn.Module):
    """x + conv(activation(conv(activation(x))))."""

    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.activation(self.conv1(self.activation(x))))


def match_size(maps: Tensor, like: Tensor) -> Tensor:
    """`maps` at the height and width of `like`."""
    size = like.shape[-2:]
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)
