"""Transformer blocks: pre-norm self-attention and cross-attention with optional QK-norm, LayerScale and positions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d.layers.attention import Kernel, attention
from recon4d.layers.positions import RotaryTable, apply_rotary
from recon4d.records import full_precision


@dataclass(frozen=True)
class BlockConfig:
    """The shape of a transformer block."""

    width: int
    heads: int
    mlp_width: int
    qk_norm: Literal["none", "rms", "layer"] = "rms"
    """How queries and keys are normalized per head (Dehghani et al. 2023): root mean square, or LayerNorm."""
    layer_scale: float | None = None
    """The initial value of learned residual scales (Touvron et al. 2021); None for none."""
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"a width of {self.width} over {self.heads} heads gives no head width that is a multiple of 4"
            )


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.scale1 = _layer_scale(config)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config)
        self.scale2 = _layer_scale(config)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        rotary: RotaryTable | None = None,
        kept: Int[Tensor, "kept"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """`kept` are the tokens that are attended to, where not all are."""
        x = x + self.scale1(self.attention(self.norm1(x), rotary, kept))
        return x + self.scale2(self.mlp(self.norm2(x)))


class CrossBlock(nn.Module):
    """x + attention(norm(x) to norm(context)), then x + mlp(norm(x))."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.norm_context = nn.LayerNorm(config.width)
        self.attention = CrossAttention(config)
        self.scale1 = _layer_scale(config)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config)
        self.scale2 = _layer_scale(config)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        context: Float[Tensor, "batch context_tokens width"],
        rotary: RotaryTable,
        context_rotary: RotaryTable,
    ) -> Float[Tensor, "batch tokens width"]:
        """`x` after attending to `context`, each with the rotary positions of its tokens."""
        attended = self.attention(self.norm1(x), self.norm_context(context), rotary, context_rotary)
        x = x + self.scale1(attended)
        return x + self.scale2(self.mlp(self.norm2(x)))


class _Attention(nn.Module):
    """What both attentions share: normalized and rotated queries and keys, the kernel, the output projection."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.kernel: Kernel = "sdpa"
        head_width = config.width // config.heads
        self.q_norm = _qk_norm(config, head_width)
        self.k_norm = _qk_norm(config, head_width)
        self.proj = nn.Linear(config.width, config.width)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, q_rotary: RotaryTable | None, k_rotary: RotaryTable | None
    ) -> Tensor:
        q, k = self.q_norm(full_precision(q)), self.k_norm(full_precision(k))
        if q_rotary is not None:
            q = apply_rotary(q, q_rotary)
        if k_rotary is not None:
            k = apply_rotary(k, k_rotary)
        attended = attention(q.to(v.dtype), k.to(v.dtype), v, self.kernel)
        return self.proj(attended.transpose(1, 2).flatten(2))

    def split_heads(self, features: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(batch, tokens, parts * width) as `parts` tensors of (batch, heads, tokens, head width)."""
        return tuple(features.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0))


class SelfAttention(_Attention):
    """Every token attends to every token of its sequence, or to those that are kept."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)

    def forward(self, x: Tensor, rotary: RotaryTable | None, kept: Tensor | None = None) -> Tensor:
        q, k, v = self.split_heads(self.qkv(x), 3)
        if kept is None:
            return self.attend(q, k, v, rotary, rotary)
        k_rotary = None if rotary is None else rotary.rows(kept)
        return self.attend(q, k[:, :, kept], v[:, :, kept], rotary, k_rotary)


class CrossAttention(_Attention):
    """Every token attends to every token of another sequence."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.q = nn.Linear(config.width, config.width, bias=config.qkv_bias)
        self.kv = nn.Linear(config.width, 2 * config.width, bias=config.qkv_bias)

    def forward(self, x: Tensor, context: Tensor, rotary: RotaryTable, context_rotary: RotaryTable) -> Tensor:
        (q,) = self.split_heads(self.q(x), 1)
        k, v = self.split_heads(self.kv(context), 2)
        return self.attend(q, k, v, rotary, context_rotary)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor for every channel of a residual branch."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def set_attention_kernel(module: nn.Module, kernel: Kernel) -> None:
    """Let every attention inside `module` run on `kernel`."""
    for part in module.modules():
        if isinstance(part, _Attention):
            part.kernel = kernel


def initialize_linear_layers(module: nn.Module, std: float = 0.02) -> None:
    """Truncated normal weights and zero biases for every linear layer inside `module`."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def shrink_residual_outputs(blocks: Iterable[Block], std: float) -> None:
    """Smaller weights where a block writes to the residual stream, so that a deep stack starts near the identity."""
    for block in blocks:
        nn.init.trunc_normal_(block.attention.proj.weight, std=std)
        nn.init.trunc_normal_(block.mlp.fc2.weight, std=std)


def _qk_norm(config: BlockConfig, head_width: int) -> nn.Module:
    if config.qk_norm == "rms":
        return nn.RMSNorm(head_width, eps=1e-6)
    return nn.LayerNorm(head_width) if config.qk_norm == "layer" else nn.Identity()


def _layer_scale(config: BlockConfig) -> nn.Module:
    return nn.Identity() if config.layer_scale is None else LayerScale(config.width, config.layer_scale)
