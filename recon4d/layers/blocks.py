"""Pre-norm transformer blocks with optional QK-norm, LayerScale and rotary position encoding."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d.errors import UserError
from recon4d.layers.attention import Kernel, attention
from recon4d.layers.positions import RotaryTable, apply_rotary
from recon4d.records import full_precision


@dataclass(frozen=True)
class BlockConfig:
    """Configuration of a transformer block.

    Raises:
        UserError: If `width` does not split into heads whose width is a multiple of 4.
    """

    width: int
    """Number of channels of the tokens."""
    heads: int
    """Number of attention heads."""
    mlp_width: int
    """Number of hidden channels of the MLP."""
    qk_norm: Literal["none", "rms", "layer"] = "rms"
    """Normalization of queries and keys per head (Dehghani et al. 2023): none, RMSNorm or LayerNorm."""
    layer_scale: float | None = None
    """Initial value of the learned residual scales (LayerScale, Touvron et al. 2021); None disables them."""
    qkv_bias: bool = False
    """Whether the projections to queries, keys and values have a bias."""
    norm_epsilon: float = 1e-5
    """Epsilon of the LayerNorms before attention and MLP. Those of queries and keys have their own."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """MLP with a GELU, or gated by a SiLU (SwiGLU, Shazeer 2020) with `mlp_width` gated channels."""

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise UserError(
                f"a block has width {self.width} and {self.heads} heads; wanted a multiple of 4 as width per head"
            )


class Block(nn.Module):
    """Self-attention block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.norm_epsilon)
        self.attention = SelfAttention(config)
        self.scale1 = _layer_scale(config)
        self.norm2 = nn.LayerNorm(config.width, config.norm_epsilon)
        self.mlp = MLPS[config.mlp](config)
        self.scale2 = _layer_scale(config)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        rotary: RotaryTable | None = None,
        key_indices: Int[Tensor, "keys"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Run the block.

        Args:
            x: Tokens.
            rotary: Rotary encoding of the tokens; None for tokens without positions.
            key_indices: Tokens that provide keys and values; None for all.

        Returns:
            Updated tokens.
        """
        x = x + self.scale1(self.attention(self.norm1(x), rotary, key_indices))
        return x + self.scale2(self.mlp(self.norm2(x)))


class CrossBlock(nn.Module):
    """Cross-attention block: x + attention(norm(x), norm(context)), then x + mlp(norm(x))."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.norm_epsilon)
        self.norm_context = nn.LayerNorm(config.width, config.norm_epsilon)
        self.attention = CrossAttention(config)
        self.scale1 = _layer_scale(config)
        self.norm2 = nn.LayerNorm(config.width, config.norm_epsilon)
        self.mlp = MLPS[config.mlp](config)
        self.scale2 = _layer_scale(config)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        context: Float[Tensor, "batch context_tokens width"],
        rotary: RotaryTable,
        context_rotary: RotaryTable,
    ) -> Float[Tensor, "batch tokens width"]:
        """Run the block.

        Args:
            x: Tokens that provide queries.
            context: Tokens that provide keys and values.
            rotary: Rotary encoding of `x`.
            context_rotary: Rotary encoding of `context`.

        Returns:
            Updated `x`.
        """
        attended = self.attention(self.norm1(x), self.norm_context(context), rotary, context_rotary)
        x = x + self.scale1(attended)
        return x + self.scale2(self.mlp(self.norm2(x)))


class _Attention(nn.Module):
    """Common part of both attention modules: QK-norm, rotary encoding, kernel and output projection."""

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
        """Attend and project.

        Args:
            q: Queries (batch, heads, tokens, head width).
            k: Keys (batch, heads, context tokens, head width).
            v: Values, of the shape of `k`.
            q_rotary: Rotary encoding of the queries; None for none.
            k_rotary: Rotary encoding of the keys; None for none.

        Returns:
            Tokens (batch, tokens, width).
        """
        q, k = self.q_norm(full_precision(q)), self.k_norm(full_precision(k))
        if q_rotary is not None:
            q = apply_rotary(q, q_rotary)
        if k_rotary is not None:
            k = apply_rotary(k, k_rotary)
        attended = attention(q.to(v.dtype), k.to(v.dtype), v, self.kernel)
        return self.proj(attended.transpose(1, 2).flatten(2))

    def split_heads(self, features: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split features into heads.

        Args:
            features: Projected tokens (batch, tokens, parts * width).
            parts: Number of tensors packed into the last axis: 3 for queries, keys and values.

        Returns:
            One tensor (batch, heads, tokens, width / heads) for each part.
        """
        return tuple(features.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0))


class SelfAttention(_Attention):
    """Multi-head self-attention, optionally restricted to a subset of keys."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)

    def forward(self, x: Tensor, rotary: RotaryTable | None, key_indices: Tensor | None = None) -> Tensor:
        """See `Block.forward`."""
        q, k, v = self.split_heads(self.qkv(x), 3)
        if key_indices is None:
            return self.attend(q, k, v, rotary, rotary)
        k_rotary = None if rotary is None else rotary.rows(key_indices)
        return self.attend(q, k[:, :, key_indices], v[:, :, key_indices], rotary, k_rotary)


class CrossAttention(_Attention):
    """Multi-head cross-attention."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.q = nn.Linear(config.width, config.width, bias=config.qkv_bias)
        self.kv = nn.Linear(config.width, 2 * config.width, bias=config.qkv_bias)

    def forward(self, x: Tensor, context: Tensor, rotary: RotaryTable, context_rotary: RotaryTable) -> Tensor:
        """See `CrossBlock.forward`."""
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
        """Apply the MLP to each token."""
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class SwigluMlp(nn.Module):
    """Two linear layers; the first computes channels and their gates (SwiGLU, Shazeer 2020)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, 2 * config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to each token."""
        gate, channels = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(nn.functional.silu(gate) * channels)


MLPS: dict[str, type[Mlp] | type[SwigluMlp]] = {"gelu": Mlp, "swiglu": SwigluMlp}
"""MLP class of each value of `BlockConfig.mlp`."""


class LayerScale(nn.Module):
    """Learned scale of each channel of a residual branch (Touvron et al. 2021)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels."""
        return x * self.gamma


def set_attention_kernel(module: nn.Module, kernel: Kernel) -> None:
    """Select the attention kernel of all blocks of a module, in place.

    Args:
        module: A network.
        kernel: Implementation of attention.
    """
    for part in module.modules():
        if isinstance(part, _Attention):
            part.kernel = kernel


def attention_kernel(module: nn.Module) -> Kernel:
    """Return the attention kernel of a module.

    Args:
        module: A network with at least one attention layer.

    Returns:
        The kernel that `set_attention_kernel` selected last; "sdpa" at first.
    """
    return next(part.kernel for part in module.modules() if isinstance(part, _Attention))


def initialize_linear_layers(module: nn.Module, std: float = 0.02) -> None:
    """Initialize all linear layers of a module with truncated normal weights and zero biases, in place.

    Args:
        module: A network.
        std: Standard deviation of the weights.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def initialize_residual_outputs(blocks: Iterable[Block], std: float) -> None:
    """Initialize the layers that write to the residual stream, in place.

    A small standard deviation makes a deep stack start near the identity.

    Args:
        blocks: Self-attention blocks.
        std: Standard deviation of the output weights of attention and MLP.
    """
    for block in blocks:
        nn.init.trunc_normal_(block.attention.proj.weight, std=std)
        nn.init.trunc_normal_(block.mlp.fc2.weight, std=std)


def _qk_norm(config: BlockConfig, head_width: int) -> nn.Module:
    if config.qk_norm == "rms":
        return nn.RMSNorm(head_width, eps=1e-6)
    return nn.LayerNorm(head_width) if config.qk_norm == "layer" else nn.Identity()


def _layer_scale(config: BlockConfig) -> nn.Module:
    return nn.Identity() if config.layer_scale is None else LayerScale(config.width, config.layer_scale)
