"""The update transformer of the point tracker, which predicts updates of position and feature for every track.

Attention alternates over time within a track and over tracks within a frame. Tracks exchange information through a few
learned virtual tracks, so that the cost is linear in the number of tracks (Karaev et al. 2024, "CoTracker3").
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon4d.layers.blocks import (
    BlockConfig,
    CrossAttention,
    Mlp,
    SelfAttention,
)
from recon4d.records import full_precision


class UpdateTransformer(nn.Module):
    """Transformer over time and over tracks.

    Args:
        block: Configuration of the blocks.
        depth: Number of blocks of each kind.
        virtual_tracks: Number of learned virtual tracks.
        in_width: Channels of the input tokens.
        out_width: Channels of the predicted updates.
    """

    def __init__(self, block: BlockConfig, depth: int, virtual_tracks: int, in_width: int, out_width: int) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(in_width)
        self.input = nn.Linear(in_width, block.width)
        self.virtual_tracks = nn.Parameter(torch.empty(1, virtual_tracks, 1, block.width))
        self.time_blocks = nn.ModuleList([NormedBlock(block) for _ in range(depth)])
        self.virtual_from_points = nn.ModuleList([NormedCrossBlock(block) for _ in range(depth)])
        self.virtual_blocks = nn.ModuleList([NormedBlock(block) for _ in range(depth)])
        self.points_from_virtual = nn.ModuleList([NormedCrossBlock(block) for _ in range(depth)])
        self.output_norm = nn.LayerNorm(block.width)
        self.output = nn.Linear(block.width, out_width)

    def reset_parameters(self) -> None:
        """Initialize linear layers with Glorot uniform weights and zero biases, and virtual tracks at random."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        nn.init.normal_(self.virtual_tracks)

    def forward(
        self, tokens: Float[Tensor, "batch time query in_width"]
    ) -> Float[Tensor, "batch time query out_width"]:
        """Predict the update of every track in every frame."""
        start = full_precision(self.input(self.input_norm(tokens)))
        batch, time, queries, _ = start.shape
        points, virtual = start, self.virtual_tracks.transpose(1, 2).expand(batch, time, -1, -1)
        layers = zip(
            self.time_blocks, self.virtual_from_points, self.virtual_blocks, self.points_from_virtual, strict=True
        )
        for over_time, virtual_from_points, over_virtual, points_from_virtual in layers:
            tracks = torch.cat([points, virtual], dim=2).transpose(1, 2)
            tracks = over_time(tracks.flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1)
            points, virtual = tracks[:, :queries], tracks[:, queries:]
            virtual = over_virtual(virtual_from_points(virtual, points))
            points = points_from_virtual(points, virtual)
            points, virtual = points.unflatten(0, (batch, time)), virtual.unflatten(0, (batch, time))
        # Updates are geometry and stay in full precision, whatever the precision of the blocks.
        with torch.autocast(start.device.type, enabled=False):
            return self.output(self.output_norm(full_precision(points) + start))


class NormedBlock(nn.Module):
    """Block x = norm(x), then x + attention(x), then x + mlp(norm(x)): the residual starts at the normalized x (VGGT).

    Args:
        config: Configuration of the block.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config)

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Apply the block."""
        x = self.norm1(x)
        x = x + self.attention(x, None)
        return x + self.mlp(self.norm2(x))


class NormedCrossBlock(nn.Module):
    """The same block with cross-attention to another sequence, which has its own norm.

    Args:
        config: Configuration of the block.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.norm_context = nn.LayerNorm(config.width)
        self.attention = CrossAttention(config)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], context: Float[Tensor, "batch context_tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Apply the block; `x` attends to `context`."""
        x = self.norm1(x)
        x = x + self._attend(x, self.norm_context(context))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend without rotary positions: tracks are a set, and their positions are part of the tokens."""
        attention = self.attention
        (q,) = attention.split_heads(attention.q(x), 1)
        k, v = attention.split_heads(attention.kv(context), 2)
        return attention.attend(q, k, v, None, None)
