"""Interface of all backbones."""

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class BackboneFeatures:
    """Features of n images."""

    tokens: Float[Tensor, "n tokens width"]
    """Patch tokens in row-major order."""
    quarter: Float[Tensor, "n quarter_channels quarter_height quarter_width"] | None = None
    """Feature maps at a quarter of the image size, for the dense heads; None if the backbone has none."""
    eighth: Float[Tensor, "n eighth_channels eighth_height eighth_width"] | None = None
    """Feature maps at an eighth of the image size, for matching; None if the backbone has none."""
    class_tokens: Float[Tensor, "n width"] | None = None
    """Class tokens that describe whole images, for the choice of a reference frame; None if the backbone has none."""
    layers: tuple[Float[Tensor, "n tokens width"], ...] = ()
    """Patch tokens of intermediate layers, for dense heads without an aggregator; empty for most backbones."""


class Backbone(nn.Module):
    """Base class of networks that convert images to patch tokens."""

    patch_size: int
    """Side of a patch in pixels."""
    width: int
    """Number of channels of the tokens."""
    quarter_channels: int = 0
    """Number of channels of the feature maps at a quarter of the image size; 0 if there are none."""
    eighth_channels: int = 0
    """Number of channels of the feature maps at an eighth of the image size; 0 if there are none."""
    has_class_tokens: bool = False
    """Whether the backbone returns class tokens."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "n 3 height width"]) -> BackboneFeatures:
        """Compute the features of images.

        Args:
            images: RGB images in [0, 1] whose sides are multiples of the patch size.

        Returns:
            Patch tokens and feature maps.
        """

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute activations in the backward pass instead of storing them.

        Args:
            enabled: Whether to recompute activations.
        """
        raise NotImplementedError
