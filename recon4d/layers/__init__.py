"""Building blocks of networks: attention kernels, positional encodings, transformer blocks and soft matching."""

from recon4d.layers.attention import Kernel, attention
from recon4d.layers.blocks import (
    Block,
    BlockConfig,
    CrossBlock,
    initialize_linear_layers,
    initialize_residual_outputs,
    set_attention_kernel,
)
from recon4d.layers.matching import (
    CELLS_PER_PATCH_SIDE,
    Matches,
    Matching,
    MatchingConfig,
    cell_centers,
    cells_to_patch_tokens,
    soft_match,
)
from recon4d.layers.positions import (
    AbsolutePosition,
    NormalizedRotary,
    RotaryTable,
    apply_rotary,
    rotary_table,
    shared_rotary_table,
)

__all__ = [
    "CELLS_PER_PATCH_SIDE",
    "AbsolutePosition",
    "Block",
    "BlockConfig",
    "CrossBlock",
    "Kernel",
    "Matches",
    "Matching",
    "MatchingConfig",
    "NormalizedRotary",
    "RotaryTable",
    "apply_rotary",
    "attention",
    "cell_centers",
    "cells_to_patch_tokens",
    "initialize_linear_layers",
    "initialize_residual_outputs",
    "rotary_table",
    "set_attention_kernel",
    "shared_rotary_table",
    "soft_match",
]
