"""Separate backward passes of the reconstruction and the tracking branch, with their shared part in between.

A joint backward pass differentiates the sum of all terms at once. Separate passes give the same gradient: the graph is
cut where the branches share it, each branch is differentiated on its own and leaves its gradient at the cut, and one
last pass continues from there. Each part of the graph is differentiated once, as in the joint pass.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d import losses
from recon4d.losses import Term
from recon4d.train.config import LossWeights
from recon4d.train.objective import (
    SCENE_GRADIENT_TERMS,
    Batch,
    TrainModule,
    stack_terms,
    term_names,
)

Record = TypeVar("Record")

BranchLoss = Callable[[Tensor, Tensor, Sequence[str]], Float[Tensor, ""]]
"""A function of the sums, the counts and the names of the terms of a branch that returns its loss."""


def separate_backward(
    train_module: TrainModule,
    batch: Batch,
    loss_of: BranchLoss,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[Float[Tensor, "term"], Float[Tensor, "term"]]:
    """Add the gradient of a batch to the parameters, in separate backward passes.

    The tracking branch starts after the reconstruction branch has been differentiated and its activations have been
    released, unless a term of the tracking branch has a gradient with respect to the predicted scene
    (`SCENE_GRADIENT_TERMS`). Data-parallel wrappers are bypassed: average the gradients over processes afterwards.

    Args:
        train_module: The model and its objective, not wrapped.
        batch: Clips with ground truth.
        loss_of: Returns the loss of a branch; its gradient is that of the objective.
        autocast: Returns a context for the precision of the forward passes.

    Returns:
        The sum and the count of each of `term_names`, without graph.
    """
    truth = losses.normalized(batch.sample.scene)
    with autocast():
        shared = Cut(train_module.tokens(batch))
        outputs = train_module.model.scene_outputs(shared.leaves, batch.sample.clip.size, batch.sample.clip.priors)
        reconstruction = train_module.reconstruction_terms(outputs, truth, batch)
    reconstruction_loss = _branch_loss(reconstruction, loss_of, train_module.weights)
    scene = None
    if any(getattr(train_module.weights, name) for name in SCENE_GRADIENT_TERMS):
        scene = Cut(outputs.scene)
        outputs = replace(outputs, scene=scene.leaves)
    else:
        _backward([(reconstruction_loss, None)])
        outputs = replace(outputs, scene=outputs.scene.map(Tensor.detach))

    with autocast():
        outputs = train_module.model.with_tracks(shared.leaves, outputs, train_module.anchors(batch))
        tracking = train_module.tracking_terms(outputs, truth, batch)
    _backward([(_branch_loss(tracking, loss_of, train_module.weights), None)])
    if scene is not None:
        scene.backward(reconstruction_loss)
    shared.backward()
    totals, counts = stack_terms(reconstruction | tracking, term_names(train_module.weights))
    return totals.detach(), counts


class Cut(Generic[Record]):
    """A cut through the graph of autograd: a record, and a copy whose tensors collect gradient instead of passing it.

    Args:
        record: A dataclass, possibly nested, with tensors of any shape.
    """

    def __init__(self, record: Record) -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self.leaves: Record = self._detached(record)
        """The record whose tensors are leaves of the graph; values share memory with the original."""

    def backward(self, *further: Float[Tensor, ""]) -> None:
        """Pass the gradient that the leaves have collected on to the original tensors.

        Args:
            further: Losses to differentiate in the same pass.
        """
        reached = [(tensor, leaf.grad) for tensor, leaf in self._pairs if leaf.grad is not None]
        _backward([*((loss, None) for loss in further), *reached])

    def _detached(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if not value.requires_grad:
                return value
            leaf = value.detach().requires_grad_()
            self._pairs.append((value, leaf))
            return leaf
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return replace(value, **{name: self._detached(inner) for name, inner in fields.items()})
        return tuple(map(self._detached, value)) if isinstance(value, tuple) else value


def _branch_loss(terms: dict[str, Term], loss_of: BranchLoss, weights: LossWeights) -> Float[Tensor, ""]:
    names = [name for name in term_names(weights) if name in terms]
    return loss_of(*stack_terms(terms, names), names)


def _backward(tensors: Sequence[tuple[Tensor, Tensor | None]]) -> None:
    """Differentiate tensors with given gradients (None for a scalar).

    Tensors without graph, as the loss of a branch that the model does not have, contribute nothing.
    """
    differentiable = [pair for pair in tensors if pair[0].requires_grad]
    if differentiable:
        torch.autograd.backward([tensor for tensor, _ in differentiable], [grad for _, grad in differentiable])  # pyright: ignore[reportArgumentType]
