"""A running average of the weights, which is often better than the weights themselves."""

# pyright: reportPrivateImportUsage=false
# (torch's foreach functions have an underscore and no other name)

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from recon4d.records import full_precision
from recon4d.train.sharding import local, part_of, whole

START = 20
"""The average follows quickly at first: after n updates the decay is at most (1 + n) / (START + n)."""


class WeightAverage:
    """The exponential moving average of a model's trainable parameters (Polyak & Juditsky 1992), in full precision.

    It belongs to the names that are trainable when it is made; what is frozen then is taken to stay as it is.
    Models are given as they are built, not wrapped or compiled, since names decide. Of sharded parameters each process
    averages its own part.
    """

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"a weight average was given a decay of {decay}; wanted from 0 to below 1")
        self.decay = decay
        self.updates = 0
        parameters = {name: local(value.detach()) for name, value in model.named_parameters() if value.requires_grad}
        if not parameters:
            raise ValueError("a weight average was given a model without trainable parameters; were all frozen?")
        self.average = {name: full_precision(value).clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average toward the weights as they are now."""
        decay = min(self.decay, (1 + self.updates) / (START + self.updates))
        weights = [full_precision(local(parameter.detach())) for parameter in self._parameters(model)]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)
        self.updates += 1

    @contextlib.contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """The average in `model` inside the block, in place; its own weights after it, bit for bit."""
        parameters = [local(parameter.detach()) for parameter in self._parameters(model)]
        own = [parameter.clone() for parameter in parameters]
        _copy(parameters, list(self.average.values()))
        try:
            yield
        finally:
            _copy(parameters, own)

    def state_dict(self, model: nn.Module | None = None) -> dict[str, Any]:
        """What is needed to go on; tensors are shared, as in torch.

        With the averaged `model`, the parts of sharded tensors are gathered: all processes must ask together.
        """
        average = dict(self.average)
        if model is not None:
            names_and_likes = zip(average, self._parameters(model), strict=True)
            average = {name: whole(average[name], like) for name, like in names_and_likes}
        return {"updates": self.updates, "average": average}

    def load_state_dict(self, state: dict[str, Any], model: nn.Module | None = None) -> None:
        """Go on from a `state_dict`, of whole tensors with the `model`; ``ValueError`` where it is of another one."""
        average = state["average"]
        if model is not None:
            likes: dict[str, Tensor] = average | dict(model.named_parameters())
            average = {name: part_of(value, likes[name]) for name, value in average.items()}
        given = {name: tuple(value.shape) for name, value in average.items()}
        wanted = {name: tuple(value.shape) for name, value in self.average.items()}
        if given != wanted:
            unlike = sorted(name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name))
            raise ValueError(f"a weight average of another model: names or shapes differ, such as {unlike[:3]}")
        for name, value in self.average.items():
            value.copy_(average[name])
        self.updates = state["updates"]

    def _parameters(self, model: nn.Module) -> list[nn.Parameter]:
        parameters = dict(model.named_parameters())
        missing = [name for name in self.average if name not in parameters]
        if missing:
            raise ValueError(f"the model lacks averaged parameters, such as {missing[:3]}")
        return [parameters[name] for name in self.average]


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    torch._foreach_copy_(targets, sources)
