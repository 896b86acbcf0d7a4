"""Base class of dense heads, which predict raw maps at full resolution from patch tokens of several layers."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class DenseHead(nn.Module):
    """Base class of heads that convert patch tokens of several layers to maps of the image size.

    Subclasses are constructed as ``(config, feature_widths, patch_size, skip_channels, out_channels)``. Their last
    convolution runs in float32, because depth is the exponential of its output.
    """

    out: nn.Conv2d
    """The last layer; its bias determines the initial value of each map."""

    @abstractmethod
    def forward(
        self,
        features: Sequence[Float[Tensor, "n patches _"]],
        grid: tuple[int, int],
        skip: Float[Tensor, "n skip_channels skip_height skip_width"] | None,
    ) -> Float[Tensor, "n out_channels height width"]:
        """Predict raw maps.

        Args:
            features: Patch tokens of each layer, in row-major order.
            grid: Number of rows and columns of patches.
            skip: Finer backbone features of the same images, if the backbone provides them.

        Returns:
            Raw maps of the image size.
        """

    @abstractmethod
    def initialize(self, bias: Float[Tensor, "out_channels"]) -> None:
        """Initialize every map to a constant.

        Args:
            bias: Initial raw value of each map.
        """

    @abstractmethod
    def shift(self, channel: int, amount: float) -> None:
        """Add a constant to one map by changing the weights.

        Args:
            channel: Index of the map.
            amount: Value to add to the raw map.
        """


def shift_bias(out: nn.Conv2d, channel: int, places: int, amount: float) -> None:
    """Add a constant to the bias of one map.

    Args:
        out: Last layer of a head.
        channel: Index of the map.
        places: Consecutive output channels per map (the pixels of a block in pixel shuffling).
        amount: Value to add.
    """
    assert out.bias is not None
    with torch.no_grad():
        out.bias[channel * places : (channel + 1) * places] += amount


class ResidualConvolutions(nn.Module):
    """Residual unit x + conv(activation(conv(activation(x)))).

    Args:
        channels: Channels of input and output.
        activation: Activation function.
    """

    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit to maps (n, channels, height, width)."""
        return x + self.conv2(self.activation(self.conv1(self.activation(x))))


def match_size(maps: Tensor, like: Tensor) -> Tensor:
    """Resize maps bilinearly to the size of other maps.

    Args:
        maps: Maps (n, channels, height, width).
        like: Maps (n, channels, height, width) with the wanted height and width.

    Returns:
        Maps (n, channels, height, width) of the wanted size.
    """
    size = like.shape[-2:]
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)
