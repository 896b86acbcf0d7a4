"""DINOv2 vision transformer of which the first blocks serve as a backbone (Depth Anything 3).

Unlike timm's, it can end without the final norm, hands out its class token, and resamples its table of positions as the
original code of DINOv2 does.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recon4d.layers import Block, BlockConfig
from recon4d.models.backbones.base import Backbone, BackboneFeatures
from recon4d.models.backbones.dino import IMAGENET_MEAN, IMAGENET_STD

TABLE_SIDE = 37
"""Rows and columns of the table of positions: DINOv2 is trained on images of 518 x 518 pixels."""
RESAMPLING_OFFSET = 0.1
"""Added to the rows and columns before the scale factor of the table is computed (DINOv2)."""


@dataclass(frozen=True)
class PlainVitConfig:
    """Configuration of the vision transformer."""

    block: BlockConfig
    """Configuration of the transformer blocks."""
    blocks: int
    """Number of transformer blocks."""
    out_indices: tuple[int, ...] = ()
    """Blocks whose patch tokens are returned after the final norm, for heads that read the backbone directly. Without
    them there is no final norm."""


class PlainVit(Backbone):
    """Vision transformer with learned absolute positions and a class token.

    Its class tokens are those before the last block, by which Depth Anything 3 chooses the reference frame.
    """

    patch_size = 14
    has_class_tokens = True

    def __init__(self, config: PlainVitConfig) -> None:
        super().__init__()
        width = config.block.width
        self.width = width
        self.out_indices = config.out_indices
        self.checkpointing = False
        self.embed = nn.Conv2d(3, width, self.patch_size, stride=self.patch_size)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(1 + TABLE_SIDE**2, width))
        self.blocks = nn.ModuleList([Block(config.block) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width) if config.out_indices else None
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        for parameter in (self.class_token, self.positions):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> BackboneFeatures:
        """See `Backbone.forward`."""
        maps = self.embed((images - self.get_buffer("mean")) / self.get_buffer("std"))
        patch_tokens = maps.flatten(2).transpose(1, 2) + self._patch_positions((maps.shape[-2], maps.shape[-1]))
        class_tokens = (self.class_token + self.positions[0]).expand(images.shape[0], 1, -1)
        tokens = torch.cat([class_tokens, patch_tokens], dim=1)
        layers, before_last = [], tokens
        for index, block in enumerate(self.blocks):
            before_last = tokens
            tokens = self._run(block, tokens)
            if self.norm is not None and index in self.out_indices:
                layers.append(self.norm(tokens)[:, 1:])
        return BackboneFeatures(tokens[:, 1:], class_tokens=before_last[:, 0].clone(), layers=tuple(layers))

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """See `Backbone.set_activation_checkpointing`."""
        self.checkpointing = enabled

    def _run(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """Run a block, with activation checkpointing if enabled."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return block(tokens)

    def _patch_positions(self, grid: tuple[int, int]) -> Float[Tensor, "patches width"]:
        """Resample the table of positions bicubically; the scale factors, not the sizes, place the samples."""
        table = self.positions[1:]
        if grid == (TABLE_SIDE, TABLE_SIDE):
            return table
        maps = table.float().unflatten(0, (TABLE_SIDE, TABLE_SIDE)).permute(2, 0, 1)[None]
        factors = [(side + RESAMPLING_OFFSET) / TABLE_SIDE for side in grid]
        with torch.autocast(maps.device.type, enabled=False):
            resampled = F.interpolate(maps, scale_factor=factors, mode="bicubic", antialias=False)
        return resampled[0].flatten(1).T
