"""Exponential moving average of model weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from recon4d.records import full_precision
from recon4d.train import foreach
from recon4d.train.sharding import gather_on_main, local_tensor, local_tensor_like

WARMUP_UPDATES = 20
"""After n updates the decay is at most (1 + n) / (20 + n), so that the average forgets the initial weights quickly.
Hand-tuned."""


class WeightAverage:
    """Exponential moving average of a model's trainable parameters, in full precision (Polyak & Juditsky 1992).

    The averaged parameters are those that are trainable at construction; frozen ones are assumed not to change. Models
    are passed unwrapped and uncompiled, because parameters are found by name. Of sharded parameters each process
    averages its own shard.

    Args:
        model: The model whose weights initialize the average.
        decay: Weight of the old average in an update, from 0 to below 1.

    Raises:
        ValueError: If `decay` is out of range, or the model has no trainable parameters.
    """

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"a weight average has a decay of {decay}; wanted from 0 to below 1")
        self.decay = decay
        self.updates = 0
        parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if not parameters:
            raise ValueError("the model of a weight average has no trainable parameters; were all frozen?")
        self.average = {
            name: full_precision(local_tensor(value.detach())).clone() for name, value in parameters.items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average toward the current weights.

        Args:
            model: The averaged model.

        Raises:
            ValueError: If the model lacks an averaged parameter.
        """
        decay = min(self.decay, (1 + self.updates) / (WARMUP_UPDATES + self.updates))
        weights = [full_precision(local_tensor(parameter.detach())) for parameter in self._parameters(model)]
        foreach.lerp_(list(self.average.values()), weights, 1 - decay)
        self.updates += 1

    @contextlib.contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Replace a model's weights by the average inside the block, in place.

        After the block, or an exception in it, the model has its own weights again, bit for bit.

        Args:
            model: The averaged model.

        Raises:
            ValueError: If the model lacks an averaged parameter.
        """
        parameters = [local_tensor(parameter.detach()) for parameter in self._parameters(model)]
        own = [parameter.clone() for parameter in parameters]
        _copy(parameters, list(self.average.values()))
        try:
            yield
        finally:
            _copy(parameters, own)

    def state_dict(self, model: nn.Module | None = None) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores.

        Args:
            model: The averaged model if its parameters may be sharded; all processes must then call this together.

        Returns:
            ``updates`` and ``average``, which holds tensors by name. They share memory with the average, except those
            of sharded parameters: these are full tensors on the CPU of rank 0, and None on other ranks.
        """
        average: dict[str, Tensor | None] = dict(self.average)
        if model is not None:
            pairs = zip(self.average.items(), self._parameters(model), strict=True)
            average = {name: gather_on_main(value, like) for (name, value), like in pairs}
        return {"updates": self.updates, "average": average}

    def load_state_dict(self, state: dict[str, Any], model: nn.Module | None = None) -> None:
        """Restore a state.

        Args:
            state: The result of `state_dict` (that of rank 0 if parameters were sharded), on all processes.
            model: The averaged model if its parameters may be sharded.

        Raises:
            ValueError: If names or shapes differ from those of this average.
        """
        average = state["average"]
        if model is not None:
            likes: dict[str, Tensor] = average | dict(model.named_parameters())
            average = {name: local_tensor_like(value, likes[name]) for name, value in average.items()}
        given = {name: tuple(value.shape) for name, value in average.items()}
        wanted = {name: tuple(value.shape) for name, value in self.average.items()}
        if given != wanted:
            different = sorted(name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name))
            raise ValueError(f"the weight average is of another model: names or shapes differ, such as {different[:3]}")
        for name, value in self.average.items():
            value.copy_(average[name])
        self.updates = state["updates"]

    def _parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the averaged parameters of a model, in the order of the average."""
        parameters = dict(model.named_parameters())
        missing = [name for name in self.average if name not in parameters]
        if missing:
            raise ValueError(f"the model lacks averaged parameters, such as {missing[:3]}")
        return [parameters[name] for name in self.average]


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    foreach.copy_(targets, sources)
