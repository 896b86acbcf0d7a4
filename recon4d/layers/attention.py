"""Scaled dot-product attention through one function, whatever computes it."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Kernel = Literal["sdpa", "plain", "xformers"]
"""`sdpa` is torch's own choice of kernels; `plain` is the formula, for tests; `xformers` needs CUDA."""


def attention(
    query: Float[Tensor, "batch heads n width"],
    key: Float[Tensor, "batch heads m width"],
    value: Float[Tensor, "batch heads m width"],
    kernel: Kernel = "sdpa",
) -> Float[Tensor, "batch heads n width"]:
    """softmax(q k^T / sqrt(width)) v for every head (Vaswani et al. 2017, eq. 1).

    Raises ``ValueError`` where `kernel` is unknown or cannot run on these tensors.
    """
    if kernel == "sdpa":
        return F.scaled_dot_product_attention(query, key, value)
    if kernel == "plain":
        return _plain(query, key, value)
    if kernel == "xformers":
        return _xformers(query, key, value)
    raise ValueError(f"unknown attention kernel {kernel!r}; there are 'sdpa', 'plain' and 'xformers'")


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return torch.softmax(scores, dim=-1) @ value


def _xformers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if query.device.type != "cuda":
        raise ValueError(f"xformers attention runs on CUDA only and these tensors are on {query.device}; use 'sdpa'")
    try:
        from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("xformers is not installed: pip install 'recon4d[xformers]'") from error
    # xformers keeps the heads behind the tokens.
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return memory_efficient_attention(query, key, value).transpose(1, 2)
