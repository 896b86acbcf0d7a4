"""Operations on lists of tensors in few kernels, under public names.

PyTorch's optimizers use these functions, but PyTorch gives them no public names. This module is the only one that
relies on them.
"""

# pyright: reportPrivateImportUsage=false

import torch
from torch import Tensor


def copy_(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, in place.

    Args:
        targets: Tensors of any shape.
        sources: Tensors of the same shapes; they may have another dtype.
    """
    torch._foreach_copy_(targets, sources)


def lerp(starts: list[Tensor], ends: list[Tensor], weight: float) -> list[Tensor]:
    """Interpolate each pair of tensors linearly.

    Args:
        starts: Tensors of any shape.
        ends: Tensors of the same shapes.
        weight: 0 for the start, 1 for the end.

    Returns:
        start + weight * (end - start) for each pair, with the shapes of `starts`.
    """
    return list(torch._foreach_lerp(starts, ends, weight))


def lerp_(starts: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Move each tensor toward its counterpart, in place; see `lerp`.

    Args:
        starts: Tensors of any shape, changed in place.
        ends: Tensors of the same shapes.
        weight: 0 to leave `starts` as they are, 1 for the end.
    """
    torch._foreach_lerp_(starts, ends, weight)


def mul(tensors: list[Tensor], factor: float | Tensor) -> list[Tensor]:
    """Multiply each tensor by the same number.

    Args:
        tensors: Tensors of any shape.
        factor: A number, or a scalar tensor on the same device.

    Returns:
        The products, with the shapes of `tensors`.
    """
    return list(torch._foreach_mul(tensors, factor))


def mul_(tensors: list[Tensor], factor: float | Tensor) -> None:
    """Multiply each tensor by the same number, in place.

    Args:
        tensors: Tensors of any shape, changed in place.
        factor: A number, or a scalar tensor on the same device.
    """
    torch._foreach_mul_(tensors, factor)


def add_(tensors: list[Tensor], others: list[Tensor]) -> None:
    """Add to each tensor its counterpart, in place.

    Args:
        tensors: Tensors of any shape, changed in place.
        others: Tensors of the same shapes.
    """
    torch._foreach_add_(tensors, others)
