"""Muon: momentum whose every matrix is made nearly orthogonal before it moves the weights (Jordan et al. 2024).

PyTorch has had a `torch.optim.Muon` since 2.9. It takes one matrix at a time, does not split the stacked projections
of attention, and works in bfloat16 on CPUs too; ours makes the same update of a plain matrix (a test holds it to
that), for all matrices of one shape at once.
"""

# pyright: reportPrivateImportUsage=false
# (torch's foreach functions have an underscore and no other name)

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.records import full_precision
from recon4d.train.sharding import local, part_of, whole

QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b, c of the map a s + b s^3 + c s^5 that is steepest at zero and takes singular values to about 0.7 .. 1.2."""
STEPS = 5
SMALLEST_NORM = 1e-7
"""A gradient of nothing at all stays nothing."""


class Muon(torch.optim.Optimizer):
    """Muon for 2D parameters, with Nesterov momentum and decoupled weight decay.

    The update is scaled by 0.2 sqrt(longer side), which gives its entries the size that AdamW's have (Liu et al.
    2025), so that rates and decay mean the same in both. A group's ``parts`` says how many matrices are stacked in
    its parameters' rows (3 for queries, keys and values in one projection); each is made orthogonal by itself.
    Of sharded parameters momentum is kept in parts; the matrices that are made orthogonal are gathered, and every
    process does them all. ``bfloat16`` iterates in that type on processors too, where those that multiply in it do so
    four times faster. Raises ``ValueError`` for parameters that are not matrices or do not split evenly.
    """

    found_inf: Tensor | None = None
    """Where this is 1, as in torch's fused optimizers, a step leaves weights and momentum as they are; nobody has to
    ask the device what it is."""

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
                f"Muon was given a rate of {lr}, a momentum of {momentum} and a weight decay of {weight_decay};"
                " wanted none below 0, and a momentum below 1"
            )
        self.bfloat16 = bfloat16
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": 1})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2 or parameter.shape[0] % group["parts"]:
                    raise ValueError(
                        f"Muon was given a parameter of shape {tuple(parameter.shape)};"
                        f" wanted a matrix of {group['parts']} equal parts, one below the other"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        alive = None if self.found_inf is None else 1 - self.found_inf
        moved = [
            _Moved(group, [p for p in group["params"] if p.grad is not None], alive) for group in self.param_groups
        ]
        momenta = [matrix for part in moved for matrix in self._matrices(part)]
        updates = iter(_orthogonal_updates(momenta, self.bfloat16))
        for part in moved:
            if part.parameters:
                part.apply([torch.cat([next(updates) for _ in range(part.parts)]) for _ in part.parameters])
        return loss

    def _matrices(self, moved: "_Moved") -> list[Tensor]:
        """The Nesterov momentum of each parameter, split into its parts."""
        if not moved.parameters:
            return []
        gradients = [local(parameter.grad) for parameter in moved.parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in moved.parameters]
        if moved.alive is not None:
            # Momentum that moves toward itself stays where it is, bit for bit.
            is_alive = moved.alive > 0
            gradients = [torch.where(is_alive, *pair) for pair in zip(gradients, buffers, strict=True)]
        torch._foreach_lerp_(buffers, gradients, 1 - moved.momentum)
        nesterov = torch._foreach_lerp(gradients, buffers, moved.momentum)
        updates = [whole(part, parameter) for part, parameter in zip(nesterov, moved.parameters, strict=True)]
        return [matrix for update in updates for matrix in update.chunk(moved.parts)]

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(local(parameter))
        return state["momentum_buffer"]


@dataclass(frozen=True)
class _Moved:
    """The parameters of one group that have a gradient in this step."""

    group: dict[str, Any]
    parameters: list[Tensor]
    alive: Tensor | None
    """0 where the step is to change nothing, 1 or None elsewhere."""

    @property
    def parts(self) -> int:
        return self.group["parts"]

    @property
    def momentum(self) -> float:
        return self.group["momentum"]

    def apply(self, updates: list[Tensor]) -> None:
        """Decay, then step, both in proportion to the group's rate."""
        rate = self.group["lr"] if self.alive is None else self.group["lr"] * self.alive
        weights = [local(parameter) for parameter in self.parameters]
        own = [part_of(update, parameter) for update, parameter in zip(updates, self.parameters, strict=True)]
        torch._foreach_mul_(weights, 1 - rate * self.group["weight_decay"])
        torch._foreach_add_(weights, torch._foreach_mul(own, -rate))


def orthogonalized(
    matrices: Float[Tensor, "batch rows columns"], bfloat16: bool = False
) -> Float[Tensor, "batch rows columns"]:
    """U V^T of each matrix U S V^T, roughly: singular values come out between about 0.7 and 1.2, zero stays zero.

    Newton-Schulz iteration: in bfloat16 on CUDA and where it is asked for, whose error is small beside that range, and
    in at least float32 elsewhere.
    Its Gram matrices are rows x rows, so tall matrices are cheaper on their side.
    """
    a, b, c = QUINTIC
    # The Frobenius norm bounds the largest singular value, and the iteration needs it below 1.
    x = full_precision(matrices)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    x = x.bfloat16() if x.is_cuda or bfloat16 else x
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


def _orthogonal_updates(matrices: list[Tensor], bfloat16: bool) -> list[Tensor]:
    """Each matrix made orthogonal and scaled, with one iteration for all that have the same shape."""
    by_shape: dict[tuple[Any, ...], list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_shape.setdefault((matrix.device, matrix.dtype, *_wide(matrix).shape), []).append(index)
    updates = list(matrices)
    for indices in by_shape.values():
        batch = orthogonalized(torch.stack([_wide(matrices[index]) for index in indices]), bfloat16)
        batch = batch * (0.2 * math.sqrt(max(batch.shape[-2:])))
        for index, update in zip(indices, batch.unbind(0), strict=True):
            updates[index] = update.mT if _is_tall(matrices[index]) else update
    return updates


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _wide(matrix: Tensor) -> Tensor:
    """A tall matrix on its side, to share a batch with wide ones."""
    return matrix.mT if _is_tall(matrix) else matrix
