"""Attention: one function with several kernels, positions for tokens on a grid, and the blocks made of them."""

from recon4d.attention.blocks import (
    Block,
    BlockConfig,
    CrossBlock,
    initialise_linear_layers,
    set_attention_kernel,
    shrink_residual_outputs,
)
from recon4d.attention.kernels import Kernel, attention
from recon4d.attention.positions import AbsolutePosition, NormalisedRotary, RotaryTable, apply_rotary, rotary_table

__all__ = [
    "AbsolutePosition",
    "Block",
    "BlockConfig",
    "CrossBlock",
    "Kernel",
    "NormalisedRotary",
    "RotaryTable",
    "apply_rotary",
    "attention",
    "initialise_linear_layers",
    "rotary_table",
    "set_attention_kernel",
    "shrink_residual_outputs",
]
