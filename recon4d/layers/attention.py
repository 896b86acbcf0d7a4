"""Scaled dot-product attention with interchangeable kernels."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recon4d.errors import UserError

Kernel = Literal["sdpa", "plain", "xformers"]
"""Implementation of attention.

`sdpa` is `torch.nn.functional.scaled_dot_product_attention`, `plain` evaluates the formula (a reference for tests), and
`xformers` requires CUDA and the xformers package.
"""
KernelChoice = Literal["auto", "sdpa", "xformers"]
"""What a person can choose; `auto` is `sdpa` on every device."""


def choose_kernel(choice: KernelChoice, device: torch.device) -> Kernel:
    """Choose the attention kernel for a device, and check that it can run there.

    Args:
        choice: The requested kernel.
        device: Device of the network.

    Returns:
        The kernel, for `set_attention_kernel`.

    Raises:
        UserError: If xformers is requested and the device is not CUDA or the package is not installed.
    """
    if choice == "xformers":
        _check_xformers(device)
        return "xformers"
    return "sdpa"


def attention(
    query: Float[Tensor, "batch heads n width"],
    key: Float[Tensor, "batch heads m width"],
    value: Float[Tensor, "batch heads m width"],
    kernel: Kernel = "sdpa",
) -> Float[Tensor, "batch heads n width"]:
    """Compute softmax(q k^T / sqrt(width)) v for every head (Vaswani et al. 2017, eq. 1).

    Args:
        query: Queries of n tokens.
        key: Keys of m tokens.
        value: Values of m tokens.
        kernel: Implementation to use.

    Returns:
        Attended values of n tokens.

    Raises:
        UserError: If `kernel` is xformers and the tensors are not on CUDA or the package is not installed.
        ValueError: If `kernel` is unknown.
    """
    if kernel == "sdpa":
        return F.scaled_dot_product_attention(query, key, value)
    if kernel == "plain":
        return _plain(query, key, value)
    if kernel == "xformers":
        return _xformers(query, key, value)
    raise ValueError(f"unknown attention kernel {kernel!r}; wanted 'sdpa', 'plain' or 'xformers'")


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return torch.softmax(scores, dim=-1) @ value


def _xformers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    _check_xformers(query.device)
    from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]

    # xformers expects (batch, tokens, heads, width).
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return memory_efficient_attention(query, key, value).transpose(1, 2)


def _check_xformers(device: torch.device) -> None:
    if device.type != "cuda":
        raise UserError(f"xformers attention requires CUDA, but the device is {device}; use 'sdpa'")
    try:
        import xformers.ops  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("xformers is not installed: pip install -e '.[xformers]', or use 'sdpa'") from error
