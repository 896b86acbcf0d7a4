"""Published state dicts, taken name by name: what is missing, misshapen or left over is refused."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

SHOWN_NAMES = 3


class PublishedWeights:
    """The tensors of a published checkpoint; remembers which were taken and what was wrong with them."""

    def __init__(self, tensors: Mapping[str, Tensor], what: str) -> None:
        self._tensors, self._what = tensors, what
        self._taken: set[str] = set()
        self._missing: list[str] = []
        self._misshapen: list[str] = []

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that says how large the network is; raises ``ValueError`` where it is not there."""
        if name not in self._tensors:
            raise ValueError(f"this is no state dict of {self._what}: it has no {name}, but {self._first_names()}")
        return tuple(self._tensors[name].shape)

    def count(self, prefix: str) -> int:
        """How many numbered parts there are: ``count("blocks.")`` is 2 for ``blocks.0.x`` and ``blocks.1.y``."""
        numbers = {name[len(prefix) :].split(".")[0] for name in self._tensors if name.startswith(prefix)}
        return len(numbers)

    def has(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str, shape: Iterable[int]) -> Tensor:
        """The tensor of a name. What is wrong with it is said by `check`, all together; until then it is empty."""
        shape = tuple(shape)
        self._taken.add(name)
        if name not in self._tensors:
            self._missing.append(name)
        elif (found := tuple(self._tensors[name].shape)) != shape:
            self._misshapen.append(f"{name} of shape {found}, wanted {shape}")
        else:
            return self._tensors[name].detach()
        return torch.empty(shape)

    def check(self, ignored: Iterable[str] = ()) -> None:
        """Raise ``ValueError`` with the first few names that are missing, have another shape, or nobody took."""
        left = sorted(self._tensors.keys() - self._taken - set(ignored))
        problems = [
            f"{verb} {_first(names)}"
            for verb, names in (("lacks", self._missing), ("has", self._misshapen), ("has the unknown", left))
            if names
        ]
        if problems:
            raise ValueError(f"this state dict does not fit {self._what}: it {'; '.join(problems)}")

    def _first_names(self) -> str:
        return _first(list(self._tensors)) if self._tensors else "nothing at all"


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
