"""The aggregator: attention within each frame and across all frames in turn, with camera and register tokens."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recon4d.layers import (
    AbsolutePosition,
    Block,
    BlockConfig,
    NormalizedRotary,
    RotaryTable,
    rotary_table,
)
from recon4d.records.configs import FILE_KEY


@dataclass(frozen=True)
class AggregatorConfig:
    """Pairs of (frame, global) blocks."""

    block: BlockConfig
    depth: int = field(metadata={FILE_KEY: "pairs"})
    out_indices: tuple[int, ...] = field(metadata={FILE_KEY: "taps"})
    """The pairs whose outputs the heads see, in order; nothing else is kept."""
    registers: int = 4
    """Extra tokens of each frame for what belongs to no patch (Darcet et al. 2024)."""
    register_attention: tuple[int, ...] = ()
    """Pairs whose global block runs over camera and register tokens alone, at a cost free of the picture's size."""
    absolute_positions: bool = True
    rotary: Literal["grid", "normalised"] = "grid"
    """grid: by number of patches, in frame and global blocks. normalized: by share of the picture, in frame blocks."""

    def __post_init__(self) -> None:
        in_order = list(self.out_indices) == sorted(set(self.out_indices))
        if not self.out_indices or not in_order or any(tap not in range(self.depth) for tap in self.out_indices):
            raise ValueError(f"taps {self.out_indices} must be rising numbers of pairs from 0 to {self.depth - 1}")


@dataclass(frozen=True)
class AggregatorState:
    """Tokens on their way through the blocks: special tokens (camera first, then registers), then patches."""

    tokens: Float[Tensor, "batch time tokens width"]
    num_special: int
    rotary: RotaryTable
    kept: Int[Tensor, "kept"] | None = None
    """Tokens of all frames side by side that global blocks attend to; None for all."""
    features: tuple[Float[Tensor, "batch time tokens tap_width"], ...] = ()
    """Outputs of the tapped pairs so far, frame and global block side by side; in inference in autocast's type."""
    special: Float[Tensor, "batch time special tap_width"] | None = None
    """The special tokens of the last tap in full precision: cameras are read from them."""

    @property
    def patches(self) -> Float[Tensor, "batch time patches width"]:
        """The tokens behind the special ones, row by row of the picture."""
        return self.tokens[:, :, self.num_special :]

    def add_to_patches(self, addition: Float[Tensor, "batch time patches width"]) -> "AggregatorState":
        """The state with `addition` on its patch tokens."""
        special, patches = self.tokens[:, :, : self.num_special], self.patches
        return replace(self, tokens=torch.cat([special, patches + addition], dim=2))

    def add_to_cameras(self, addition: Float[Tensor, "batch time width"]) -> "AggregatorState":
        """The state with `addition` on its camera tokens."""
        camera = self.tokens[:, :, :1] + addition[:, :, None]
        return replace(self, tokens=torch.cat([camera, self.tokens[:, :, 1:]], dim=2))


class Aggregator(nn.Module):
    """Alternating attention (VGGT, Wang et al. 2025) over any number of frames of any size.

    Frames know only whether they are the first: the rest may be permuted freely. Special tokens are learned twice,
    once for the first frame, whose camera the answer starts at, and once for all others.
    """

    def __init__(self, config: AggregatorConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        width = config.block.width
        self.num_special = 1 + config.registers
        self.special_tokens = nn.Parameter(torch.empty(2, self.num_special, width))
        self.positions = AbsolutePosition(width) if config.absolute_positions else None
        self.head_width = config.block.width // config.block.heads
        self.rotary = NormalizedRotary(self.head_width) if config.rotary == "normalised" else None
        self.frame_blocks = nn.ModuleList([Block(config.block) for _ in range(config.depth)])
        self.global_blocks = nn.ModuleList([Block(config.block) for _ in range(config.depth)])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Special tokens apart from each other from the start."""
        nn.init.normal_(self.special_tokens, std=0.5)

    def begin(
        self, patches: Float[Tensor, "batch time patches width"], grid: tuple[int, int], key_stride: int = 1
    ) -> AggregatorState:
        """The tokens before the first block; `grid` counts the patches (rows, columns).

        With a `key_stride` above 1 global blocks attend to every so many rows and columns of patches only: an
        approximation, `key_stride` squared times cheaper where attention across frames is what costs.
        """
        batch, time = patches.shape[:2]
        if self.positions is not None:
            patches = patches + self.positions(grid)
        first, other = self.special_tokens.to(patches.dtype)
        special = torch.cat([first[None], other.expand(time - 1, -1, -1)])
        tokens = torch.cat([special.expand(batch, -1, -1, -1), patches], dim=2)
        if self.rotary is None:
            rotary = rotary_table(grid, self.num_special, self.head_width, tokens.device)
        else:
            rotary = self.rotary(grid, self.num_special)
        kept = kept_tokens(time, grid, self.num_special, key_stride, tokens.device) if key_stride > 1 else None
        return AggregatorState(tokens, self.num_special, rotary, kept)

    def forward(self, state: AggregatorState, first_pair: int, stop_pair: int) -> AggregatorState:
        """The state after the pairs from `first_pair` up to, but without, `stop_pair`."""
        tokens, features, special = state.tokens, state.features, state.special
        global_rotary = state.rotary.tiled(tokens.shape[1]) if self.rotary is None else None
        for pair in range(first_pair, stop_pair):
            in_frame = self._run(self.frame_blocks[pair], tokens.flatten(0, 1), state.rotary).view_as(tokens)
            if pair in self.config.register_attention:
                tokens = self._across_special(self.global_blocks[pair], in_frame)
            else:
                across = self._run(self.global_blocks[pair], in_frame.flatten(1, 2), global_rotary, state.kept)
                tokens = across.view_as(in_frame)
            if pair in self.config.out_indices:
                both = torch.cat([in_frame, tokens], dim=-1)
                special = both[:, :, : self.num_special].clone()
                features = (*features, _to_autocast_dtype(both))
        return replace(state, tokens=tokens, features=features, special=special)

    def _across_special(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """Register attention: special tokens of all frames attend to each other, patches pass by."""
        special = tokens[:, :, : self.num_special]
        # Special tokens all stand at position 0, where rotary positions are the identity.
        across = self._run(block, special.flatten(1, 2), None).view_as(special)
        return torch.cat([across, tokens[:, :, self.num_special :]], dim=2)

    def _run(self, block: nn.Module, tokens: Tensor, rotary: RotaryTable | None, kept: Tensor | None = None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens, rotary, kept, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return block(tokens, rotary, kept)


def _to_autocast_dtype(tokens: Tensor) -> Tensor:
    """What is only read from now on, in autocast's type: taps are most of what a long clip holds."""
    device = tokens.device.type
    if torch.is_grad_enabled() or device == "meta" or not torch.is_autocast_enabled(device):
        return tokens
    return tokens.to(torch.get_autocast_dtype(device))


def kept_tokens(
    time: int, grid: tuple[int, int], num_special: int, stride: int, device: torch.device | None = None
) -> Int[Tensor, "kept"]:
    """Numbers of the tokens of `time` frames side by side that are left when patches are thinned.

    Special tokens all stay, and the first frame stays whole: it is where the world begins.
    """
    # Counted on the CPU: how many there are would otherwise have to be waited for.
    rows, columns = (torch.arange(n) % stride == min(stride // 2, n - 1) for n in grid)
    patches = (rows[:, None] & columns).flatten()
    special = patches.new_ones(num_special)
    others = torch.cat([special, patches]).repeat(time - 1)
    return torch.cat([others.new_ones(num_special + len(patches)), others]).nonzero().squeeze(-1).to(device)
