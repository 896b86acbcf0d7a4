"""Small convolutional stem followed by transformer blocks: the backbone of models that are trained from scratch."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recon4d.layers import Block, BlockConfig, rotary_table
from recon4d.models.backbones.base import Backbone, BackboneFeatures
from recon4d.records import full_precision


@dataclass(frozen=True)
class ConvolutionalBackboneConfig:
    """Configuration of the convolutional backbone."""

    block: BlockConfig = BlockConfig(width=384, heads=6, mlp_width=1024)  # noqa: RUF009 - frozen
    """Configuration of the transformer blocks, at a sixteenth of the image size."""
    blocks: int = 4
    """Number of transformer blocks."""
    quarter_channels: int = 64
    """Number of channels of the stem at a quarter of the image size."""
    eighth_channels: int = 128
    """Number of channels of the stem at an eighth of the image size."""


class ConvolutionalStem(nn.Module):
    """Convolutions to a quarter and an eighth of the image size.

    Args:
        quarter_channels: Number of channels at a quarter of the image size.
        eighth_channels: Number of channels at an eighth of the image size.
    """

    def __init__(self, quarter_channels: int, eighth_channels: int) -> None:
        super().__init__()
        self.to_quarter = nn.Conv2d(3, quarter_channels, 7, stride=4, padding=3)
        self.quarter = _Residual(quarter_channels)
        self.to_eighth = nn.Conv2d(quarter_channels, eighth_channels, 3, stride=2, padding=1)
        self.eighth = _Residual(eighth_channels)

    def forward(
        self, images: Float[Tensor, "n 3 height width"]
    ) -> tuple[Float[Tensor, "n quarter_channels _ _"], Float[Tensor, "n eighth_channels _ _"]]:
        """Compute the feature maps.

        Args:
            images: RGB images in [0, 1].

        Returns:
            Features at a quarter and at an eighth of the image size.
        """
        # Map [0, 1] to [-2, 2]. ImageNet statistics do not apply to synthetic images.
        quarter = self.quarter(self.to_quarter(4 * images - 2))
        return quarter, self.eighth(self.to_eighth(F.gelu(quarter)))


class ConvolutionalBackbone(ConvolutionalStem, Backbone):
    """Convolutions up to stride 16, followed by self-attention within each image.

    Unlike a patch embedding, convolutions respond to edges and textures from the first training step. Their features at
    stride 4 and 8 also serve the dense heads and matching.
    """

    patch_size = 16

    def __init__(self, config: ConvolutionalBackboneConfig) -> None:
        super().__init__(config.quarter_channels, config.eighth_channels)
        self.width = config.block.width
        self.quarter_channels = config.quarter_channels
        self.eighth_channels = config.eighth_channels
        self.head_width = config.block.width // config.block.heads
        self.checkpointing = False

        self.norm = nn.GroupNorm(8, config.eighth_channels)
        self.to_tokens = nn.Conv2d(config.eighth_channels, self.width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([Block(config.block) for _ in range(config.blocks)])

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> BackboneFeatures:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `Backbone.forward`."""
        quarter, eighth = ConvolutionalStem.forward(self, images)
        maps = self.to_tokens(F.gelu(self.norm(eighth)))
        grid = (maps.shape[-2], maps.shape[-1])
        tokens = full_precision(maps.flatten(2).transpose(1, 2))
        rotary = rotary_table(grid, 0, self.head_width, maps.device)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, rotary, use_reentrant=False)
                assert isinstance(tokens, Tensor)
            else:
                tokens = block(tokens, rotary)
        return BackboneFeatures(tokens, quarter, eighth)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """See `Backbone.set_activation_checkpointing`."""
        self.checkpointing = enabled


class _Residual(nn.Module):
    """Residual block: x + conv(gelu(norm(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.gelu(self.norm(x)))
