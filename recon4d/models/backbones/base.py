"""What every backbone promises."""

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class BackboneFeatures:
    """What a backbone says of n pictures: patch tokens row by row, and finer features where it has them."""

    tokens: Float[Tensor, "n tokens width"]
    quarter: Float[Tensor, "n quarter_channels quarter_height quarter_width"] | None = None
    """Features at a quarter of the picture's size, for the dense heads."""
    eighth: Float[Tensor, "n eighth_channels eighth_height eighth_width"] | None = None
    """Features at an eighth of the picture's size, for matching."""


class Backbone(nn.Module):
    """Turns pictures into tokens; says beforehand how large its patches and how wide its features are."""

    patch_size: int
    width: int
    quarter_channels: int = 0
    eighth_channels: int = 0

    @abstractmethod
    def forward(self, images: Float[Tensor, "n 3 height width"]) -> BackboneFeatures:
        """The features of RGB pictures in [0, 1] whose sides are multiples of the patch size."""

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        raise NotImplementedError
