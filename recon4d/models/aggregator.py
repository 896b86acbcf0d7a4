"""Aggregator: alternating attention within each frame and across all frames, with camera and register tokens."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recon4d.errors import UserError
from recon4d.layers import (
    AbsolutePosition,
    Block,
    BlockConfig,
    NormalizedRotary,
    RotaryTable,
    rotary_table,
    shared_rotary_table,
)
from recon4d.records.configs import FILE_KEY


@dataclass(frozen=True)
class AggregatorConfig:
    """Configuration of the aggregator, a stack of pairs of a frame block and a global block.

    Raises:
        UserError: If `out_indices` are not increasing block indices.
    """

    block: BlockConfig
    """Configuration of all blocks."""
    depth: int = field(metadata={FILE_KEY: "pairs"})
    """Number of pairs of blocks."""
    out_indices: tuple[int, ...] = field(metadata={FILE_KEY: "taps"})
    """Indices of the pairs whose outputs are passed to the heads, in increasing order."""
    registers: int = 4
    """Number of register tokens of each frame, which hold global information (Darcet et al. 2024)."""
    register_attention: tuple[int, ...] = ()
    """Indices of the pairs whose global block processes camera and register tokens only.

    The cost of such a block does not depend on the image size.
    """
    absolute_positions: bool = True
    """Whether absolute positions are added to the patch tokens."""
    rotary: Literal["grid", "normalised", "grid_in_frame"] = "grid"
    """Rotary position encoding.

    "grid" encodes patch indices in frame and global blocks (`rotary_table`). "normalised" encodes positions relative to
    the image size in frame blocks only (`NormalizedRotary`). The spelling is a value in configuration files.
    "grid_in_frame" encodes patch indices in frame blocks, and in global blocks only the difference between special and
    patch tokens (`shared_rotary_table`).
    """
    leading_global_block: bool = False
    """Whether a global block precedes the first pair."""
    normalized_features: bool = False
    """Whether a LayerNorm is applied to the output of the global block in the features of patch tokens, which are the
    input of the dense heads (Depth Anything 3). Special features are not normalized."""

    def __post_init__(self) -> None:
        in_order = list(self.out_indices) == sorted(set(self.out_indices))
        if not self.out_indices or not in_order or any(index not in range(self.depth) for index in self.out_indices):
            raise UserError(
                f"output indices {self.out_indices} must be increasing indices of blocks from 0 to {self.depth - 1}"
            )


@dataclass(frozen=True)
class AggregatorState:
    """State of the tokens between blocks."""

    tokens: Float[Tensor, "batch time tokens width"]
    """Tokens of each frame: special tokens (the camera token, then registers), then patch tokens in row-major order."""
    num_special: int
    """Number of special tokens of each frame."""
    rotary: RotaryTable
    """Rotary encoding of the tokens of one frame."""
    key_indices: Int[Tensor, "keys"] | None = None
    """Indices into the concatenated tokens of all frames that global blocks attend to; None for all."""
    features: tuple[Float[Tensor, "batch time tokens feature_width"], ...] = ()
    """Outputs of the pairs in `out_indices` so far: tokens after the frame and the global block, concatenated.

    During inference they are stored in the dtype of autocast.
    """
    special_features: Float[Tensor, "batch time special feature_width"] | None = None
    """Features of the special tokens at the last output index in full precision; input of the camera head."""

    @property
    def patch_tokens(self) -> Float[Tensor, "batch time patches width"]:
        """Patch tokens in row-major order."""
        return self.tokens[:, :, self.num_special :]

    def add_to_patch_tokens(self, addition: Float[Tensor, "batch time patches width"]) -> "AggregatorState":
        """Add to the patch tokens.

        Args:
            addition: Values to add.

        Returns:
            The new state.
        """
        special, patch_tokens = self.tokens[:, :, : self.num_special], self.patch_tokens
        return replace(self, tokens=torch.cat([special, patch_tokens + addition], dim=2))

    def add_to_camera_tokens(self, addition: Float[Tensor, "batch time width"]) -> "AggregatorState":
        """Add to the camera tokens.

        Args:
            addition: Values to add.

        Returns:
            The new state.
        """
        camera = self.tokens[:, :, :1] + addition[:, :, None]
        return replace(self, tokens=torch.cat([camera, self.tokens[:, :, 1:]], dim=2))

    def replace_camera_tokens(
        self, tokens: Float[Tensor, "batch time width"], is_replaced: Bool[Tensor, "batch"]
    ) -> "AggregatorState":
        """Replace the camera tokens of some clips.

        Args:
            tokens: New camera tokens.
            is_replaced: Clips whose camera tokens are replaced.

        Returns:
            The new state.
        """
        camera = torch.where(is_replaced[:, None, None], tokens.to(self.tokens.dtype), self.tokens[:, :, 0])
        return replace(self, tokens=torch.cat([camera[:, :, None], self.tokens[:, :, 1:]], dim=2))


class Aggregator(nn.Module):
    """Alternating attention (VGGT, Wang et al. 2025) over any number of frames of any size.

    There are two learned sets of special tokens: one for the reference frame, which is the first frame unless another
    is chosen, and one for all others. The network is equivariant to permutations of the other frames.
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
        self.leading_block = Block(config.block) if config.leading_global_block else None
        self.frame_blocks = nn.ModuleList([Block(config.block) for _ in range(config.depth)])
        self.global_blocks = nn.ModuleList([Block(config.block) for _ in range(config.depth)])
        self.feature_norm = nn.LayerNorm(width) if config.normalized_features else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the special tokens with a large deviation, so that they differ from the start."""
        nn.init.normal_(self.special_tokens, std=0.5)

    def initial_state(
        self,
        patch_tokens: Float[Tensor, "batch time patches width"],
        grid: tuple[int, int],
        key_stride: int = 1,
        is_reference: Bool[Tensor, "batch time"] | None = None,
    ) -> AggregatorState:
        """Prepare the tokens for the first block.

        Args:
            patch_tokens: Patch tokens of all frames in row-major order.
            grid: Number of patch rows and columns.
            key_stride: With a stride s above 1, global blocks attend only to every s-th row and column of patches of
                all frames but the reference. This approximation makes attention across frames s^2 times cheaper.
            is_reference: The reference frame of each clip; None for the first frame.

        Returns:
            The initial state.

        Raises:
            ValueError: If there is a key stride for several clips with chosen reference frames.
        """
        batch, time = patch_tokens.shape[:2]
        if self.positions is not None:
            patch_tokens = patch_tokens + self.positions(grid)
        first, other = self.special_tokens.to(patch_tokens.dtype)
        if is_reference is None:
            special = torch.cat([first[None], other.expand(time - 1, -1, -1)]).expand(batch, -1, -1, -1)
        else:
            special = torch.where(is_reference[..., None, None], first, other)
        tokens = torch.cat([special, patch_tokens], dim=2)
        if self.rotary is None:
            rotary = rotary_table(grid, self.num_special, self.head_width, tokens.device)
        else:
            rotary = self.rotary(grid, self.num_special)
        kept = self._key_indices(time, grid, key_stride, is_reference, tokens.device) if key_stride > 1 else None
        return AggregatorState(tokens, self.num_special, rotary, kept)

    def forward(self, state: AggregatorState, first_block: int, stop_block: int) -> AggregatorState:
        """Run consecutive pairs of blocks.

        Args:
            state: State before the blocks.
            first_block: Index of the first pair to run.
            stop_block: Index after the last pair to run.

        Returns:
            The state after the blocks.
        """
        tokens, features, special = state.tokens, state.features, state.special_features
        global_rotary = self._global_rotary(state)
        if first_block == 0 and self.leading_block is not None:
            tokens = self._attend_globally(self.leading_block, tokens, global_rotary, state.key_indices)
        for index in range(first_block, stop_block):
            in_frame = self._run(self.frame_blocks[index], tokens.flatten(0, 1), state.rotary).view_as(tokens)
            if index in self.config.register_attention:
                tokens = self._attend_special_tokens(self.global_blocks[index], in_frame)
            else:
                tokens = self._attend_globally(self.global_blocks[index], in_frame, global_rotary, state.key_indices)
            if index in self.config.out_indices:
                special = torch.cat([part[:, :, : self.num_special] for part in (in_frame, tokens)], dim=-1)
                features = (*features, self._features(in_frame, tokens))
        return replace(state, tokens=tokens, features=features, special_features=special)

    def _key_indices(
        self, time: int, grid: tuple[int, int], stride: int, is_reference: Tensor | None, device: torch.device
    ) -> Int[Tensor, "keys"]:
        """Return the tokens that global blocks attend to; clips of a batch share them."""
        reference = None
        if is_reference is not None:
            if len(is_reference) > 1:
                raise ValueError(f"a key stride with chosen reference frames needs one clip, not {len(is_reference)}")
            reference = is_reference[0].long().argmax()
        return strided_key_indices(time, grid, self.num_special, stride, device, reference)

    def _features(self, in_frame: Tensor, across: Tensor) -> Tensor:
        """Concatenate the outputs of a frame block and a global block, in the dtype of features."""
        if self.feature_norm is not None:
            across = self.feature_norm(across)
        return _to_autocast_dtype(torch.cat([in_frame, across], dim=-1))

    def _global_rotary(self, state: AggregatorState) -> RotaryTable | None:
        """Return the rotary encoding of the concatenated tokens of all frames; None for tokens without positions."""
        time, count = state.tokens.shape[1:3]
        if self.rotary is not None:
            return None
        if self.config.rotary == "grid":
            return state.rotary.tiled(time)
        return shared_rotary_table(count, self.num_special, self.head_width, state.tokens.device).tiled(time)

    def _attend_globally(
        self, block: nn.Module, tokens: Tensor, rotary: RotaryTable | None, key_indices: Tensor | None
    ) -> Tensor:
        """Apply a global block to the tokens of all frames."""
        return self._run(block, tokens.flatten(1, 2), rotary, key_indices).view_as(tokens)

    def _attend_special_tokens(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """Apply a global block to the special tokens of all frames; patch tokens are unchanged."""
        special = tokens[:, :, : self.num_special]
        # Special tokens have position 0, where the rotary encoding is the identity.
        across = self._run(block, special.flatten(1, 2), None).view_as(special)
        return torch.cat([across, tokens[:, :, self.num_special :]], dim=2)

    def _run(self, block: nn.Module, tokens: Tensor, rotary: RotaryTable | None, keys: Tensor | None = None) -> Tensor:
        """Run a block, with activation checkpointing if enabled."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens, rotary, keys, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return block(tokens, rotary, keys)


def _to_autocast_dtype(tokens: Tensor) -> Tensor:
    """Convert output features to the dtype of autocast during inference: they dominate the memory of long clips."""
    device = tokens.device.type
    if torch.is_grad_enabled() or device == "meta" or not torch.is_autocast_enabled(device):
        return tokens
    return tokens.to(torch.get_autocast_dtype(device))


def strided_key_indices(
    time: int,
    grid: tuple[int, int],
    num_special: int,
    stride: int,
    device: torch.device | None = None,
    reference: Int[Tensor, ""] | None = None,
) -> Int[Tensor, "keys"]:
    """Select the tokens that global blocks attend to with a key stride.

    All special tokens and all tokens of the reference frame, which defines the world frame, are kept.

    Args:
        time: Number of frames.
        grid: Number of patch rows and columns.
        num_special: Number of special tokens of each frame.
        stride: Stride over patch rows and columns.
        device: Device of the result; None is the default device.
        reference: Index of the reference frame; None for the first.

    Returns:
        Indices into the concatenated tokens of all frames: those of the reference frame, then those of the others.
    """
    # Computed on the CPU: nonzero() on a GPU would synchronize.
    rows, columns = (torch.arange(n) % stride == min(stride // 2, n - 1) for n in grid)
    keep_patch = (rows[:, None] & columns).flatten()
    keep_special = keep_patch.new_ones(num_special)
    kept = torch.cat([keep_special, keep_patch]).nonzero().squeeze(-1).to(device)
    count = num_special + len(keep_patch)
    if reference is None:
        reference = torch.zeros((), dtype=torch.long, device=device)
    others = torch.arange(time - 1, device=device)
    others = others + (others >= reference)
    in_reference = reference * count + torch.arange(count, device=device)
    return torch.cat([in_reference, (others[:, None] * count + kept).flatten()])
