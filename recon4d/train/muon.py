"""Muon: momentum with an orthogonalized update for each matrix (Jordan et al. 2024).

`torch.optim.Muon` exists since PyTorch 2.9. It updates one matrix at a time, does not split the stacked projections of
attention, and iterates in bfloat16 on CPUs too. This implementation makes the same update of a plain matrix (tested
against it) and batches all matrices of one shape.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.records import full_precision
from recon4d.train import foreach
from recon4d.train.sharding import full_tensor, local_tensor, local_tensor_like

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the map a s + b s^3 + c s^5 of singular values, from Jordan et al. 2024: it is steep at zero and takes
singular values to about 0.7 .. 1.2."""
NEWTON_SCHULZ_STEPS = 5
"""Iterations of the map, from Jordan et al. 2024."""
MIN_NORM = 1e-7
"""Smallest Frobenius norm that a matrix is divided by, so that a zero gradient gives a zero update."""


class Muon(torch.optim.Optimizer):
    """Muon for 2D parameters, with Nesterov momentum and decoupled weight decay.

    The update is scaled by 0.2 sqrt(longer side), so that its entries are as large as those of AdamW and both can use
    the same rates and weight decay (Liu et al. 2025). The option ``parts`` of a parameter group is the number of
    matrices that are stacked in the rows of its parameters (3 for queries, keys and values in one projection); each is
    orthogonalized separately. Momentum of sharded parameters is sharded; the matrices are gathered before they are
    orthogonalized, which every process then does for all of them.

    Args:
        params: 2D parameters, or parameter groups.
        lr: Learning rate, 0 or more.
        momentum: Weight of the old momentum in an update, from 0 to below 1.
        weight_decay: Decoupled weight decay: a step multiplies weights by 1 - lr * weight_decay.
        bfloat16: Iterate in bfloat16 on CPUs too. It is about four times faster on processors with bfloat16
            instructions.

    Raises:
        ValueError: If an option is out of range, or a parameter is not a matrix of `parts` equal parts.
    """

    found_inf: Tensor | None = None
    """A scalar; if it is 1, a step changes neither weights nor momentum, without a synchronization with the device.
    PyTorch's fused optimizers have the same attribute."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 2e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
        bfloat16: bool = False,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"Muon has a rate of {lr}, a momentum of {momentum} and a weight decay of {weight_decay};"
                " wanted none below 0, and a momentum below 1"
            )
        self.bfloat16 = bfloat16
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": 1})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2 or parameter.shape[0] % group["parts"]:
                    raise ValueError(
                        f"Muon has a parameter of shape {tuple(parameter.shape)};"
                        f" wanted a matrix whose rows split into {group['parts']} equal parts"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient.

        Args:
            closure: Function that computes gradients and returns the loss; None if the gradients are there already.

        Returns:
            The loss that `closure` returned; None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        is_finite = None if self.found_inf is None else 1 - self.found_inf
        updated = [
            _UpdatedGroup(group, [p for p in group["params"] if p.grad is not None], is_finite)
            for group in self.param_groups
        ]
        momenta = [matrix for group in updated for matrix in self._matrices(group)]
        updates = iter(_orthogonal_updates(momenta, self.bfloat16))
        for group in updated:
            if group.parameters:
                group.apply([torch.cat([next(updates) for _ in range(group.parts)]) for _ in group.parameters])
        return loss

    def _matrices(self, group: "_UpdatedGroup") -> list[Tensor]:
        """Return the Nesterov momentum of each parameter, split into its parts."""
        if not group.parameters:
            return []
        gradients = [local_tensor(parameter.grad) for parameter in group.parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in group.parameters]
        if group.is_finite is not None:
            # Interpolating momentum toward itself leaves it unchanged, bit for bit.
            is_finite = group.is_finite > 0
            gradients = [torch.where(is_finite, *pair) for pair in zip(gradients, buffers, strict=True)]
        foreach.lerp_(buffers, gradients, 1 - group.momentum)
        nesterov = foreach.lerp(gradients, buffers, group.momentum)
        updates = [full_tensor(part, parameter) for part, parameter in zip(nesterov, group.parameters, strict=True)]
        return [matrix for update in updates for matrix in update.chunk(group.parts)]

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(local_tensor(parameter))
        return state["momentum_buffer"]


@dataclass(frozen=True)
class _UpdatedGroup:
    """The parameters of one group that have a gradient in this step."""

    group: dict[str, Any]
    parameters: list[Tensor]
    is_finite: Tensor | None
    """0 if the step must change nothing; 1 or None otherwise."""

    @property
    def parts(self) -> int:
        return self.group["parts"]

    @property
    def momentum(self) -> float:
        return self.group["momentum"]

    def apply(self, updates: list[Tensor]) -> None:
        """Apply weight decay, then the updates, both in proportion to the group's rate."""
        rate = self.group["lr"] if self.is_finite is None else self.group["lr"] * self.is_finite
        weights = [local_tensor(parameter) for parameter in self.parameters]
        own = [local_tensor_like(update, parameter) for update, parameter in zip(updates, self.parameters, strict=True)]
        foreach.mul_(weights, 1 - rate * self.group["weight_decay"])
        foreach.add_(weights, foreach.mul(own, -rate))


def orthogonalize(
    matrices: Float[Tensor, "batch rows columns"], bfloat16: bool = False
) -> Float[Tensor, "batch rows columns"]:
    """Approximate U V^T of each matrix U S V^T by a Newton-Schulz iteration.

    The iteration runs in bfloat16 on CUDA, whose rounding is small compared to the spread of the resulting singular
    values, and in at least float32 elsewhere. Its Gram matrices are rows x rows, so wide matrices are cheaper than tall
    ones.

    Args:
        matrices: The matrices, of any scale.
        bfloat16: Iterate in bfloat16 on CPUs too.

    Returns:
        Matrices with singular values between about 0.7 and 1.2; a zero matrix stays zero.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    # The Frobenius norm bounds the largest singular value, which must be at most 1 for the iteration.
    x = full_precision(matrices)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=MIN_NORM)
    x = x.bfloat16() if x.is_cuda or bfloat16 else x
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


def _orthogonal_updates(matrices: list[Tensor], bfloat16: bool) -> list[Tensor]:
    """Orthogonalize and scale each matrix, in one batch for all matrices of the same shape."""
    by_shape: dict[tuple[Any, ...], list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_shape.setdefault((matrix.device, matrix.dtype, *_wide(matrix).shape), []).append(index)
    updates = list(matrices)
    for indices in by_shape.values():
        batch = orthogonalize(torch.stack([_wide(matrices[index]) for index in indices]), bfloat16)
        batch = batch * (0.2 * math.sqrt(max(batch.shape[-2:])))
        for index, update in zip(indices, batch.unbind(0), strict=True):
            updates[index] = update.mT if _is_tall(matrices[index]) else update
    return updates


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _wide(matrix: Tensor) -> Tensor:
    """Transpose a tall matrix, so that it can share a batch with wide ones."""
    return matrix.mT if _is_tall(matrix) else matrix
