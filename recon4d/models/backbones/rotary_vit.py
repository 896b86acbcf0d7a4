"""Vision transformer with normalized rotary positions, the continuation of DINOv3 in VGGT-Omega.

DINOv3 in timm normalizes positions by each side of the image separately; here the longer side normalizes both, which
keeps the aspect ratio.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recon4d.layers import Block, BlockConfig, NormalizedRotary
from recon4d.models.backbones.base import Backbone, BackboneFeatures
from recon4d.models.backbones.dino import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class RotaryBackboneConfig:
    """Configuration of the rotary vision transformer."""

    block: BlockConfig
    """Configuration of the transformer blocks."""
    blocks: int
    """Number of transformer blocks."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    prefix_tokens: int = 5
    """Number of class and register tokens before the patch tokens."""


class RotaryBackbone(Backbone):
    """Vision transformer that returns its patch tokens after the final norm."""

    def __init__(self, config: RotaryBackboneConfig) -> None:
        super().__init__()
        block = config.block
        self.patch_size = config.patch_size
        self.width = block.width
        self.num_prefix_tokens = config.prefix_tokens
        self.checkpointing = False
        self.embed = nn.Conv2d(3, block.width, config.patch_size, stride=config.patch_size)
        self.prefix_tokens = nn.Parameter(0.02 * torch.randn(config.prefix_tokens, block.width))
        self.rotary = NormalizedRotary(block.width // block.heads)
        self.blocks = nn.ModuleList([Block(block) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(block.width)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> BackboneFeatures:
        """See `Backbone.forward`."""
        maps = self.embed((images - self.get_buffer("mean")) / self.get_buffer("std"))
        grid = (maps.shape[-2], maps.shape[-1])
        patch_tokens = maps.flatten(2).transpose(1, 2)
        prefix = self.prefix_tokens.to(patch_tokens.dtype).expand(patch_tokens.shape[0], -1, -1)
        tokens = torch.cat([prefix, patch_tokens], dim=1)
        rotary = self.rotary(grid, self.num_prefix_tokens)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, rotary, use_reentrant=False)
                assert isinstance(tokens, Tensor)
            else:
                tokens = block(tokens, rotary)
        return BackboneFeatures(self.norm(tokens)[:, self.num_prefix_tokens :])

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """See `Backbone.set_activation_checkpointing`."""
        self.checkpointing = enabled
