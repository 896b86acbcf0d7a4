"""Building blocks of networks: attention kernels, positional encodings, transformer blocks and matching."""

from recon4d.layers.attention import Kernel, attention
from recon4d.layers.blocks import (
    Block,
    BlockConfig,
    CrossBlock,
    initialize_linear_layers,
    initialize_residual_outputs,
    set_attention_kernel,
)
from recon4d.layers.matchers import (
    Assignment,
    HoughMatcher,
    Matcher,
    NearestMatcher,
    SinkhornMatcher,
    SoftMatcher,
    TwoViewFilter,
    sinkhorn,
    soft_match,
    two_view_mask,
)
from recon4d.layers.matching import (
    CELLS_PER_PATCH_SIDE,
    AssignmentKind,
    Matches,
    Matching,
    MatchingConfig,
    cell_centers,
    cells_to_patch_tokens,
)
from recon4d.layers.positions import AbsolutePosition, NormalizedRotary, RotaryTable, apply_rotary, rotary_table

__all__ = [
    "CELLS_PER_PATCH_SIDE",
    "AbsolutePosition",
    "Assignment",
    "AssignmentKind",
    "Block",
    "BlockConfig",
    "CrossBlock",
    "HoughMatcher",
    "Kernel",
    "Matcher",
    "Matches",
    "Matching",
    "MatchingConfig",
    "NearestMatcher",
    "NormalizedRotary",
    "RotaryTable",
    "SinkhornMatcher",
    "SoftMatcher",
    "TwoViewFilter",
    "apply_rotary",
    "attention",
    "cell_centers",
    "cells_to_patch_tokens",
    "initialize_linear_layers",
    "initialize_residual_outputs",
    "rotary_table",
    "set_attention_kernel",
    "sinkhorn",
    "soft_match",
    "two_view_mask",
]
