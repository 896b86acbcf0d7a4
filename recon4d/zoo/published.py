"""Strict conversion of published state dicts: missing, misshapen and unused tensors are errors."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from recon4d.errors import UserError

SHOWN_NAMES = 3
"""Number of parameter names that an error message lists."""


class PublishedWeights:
    """The tensors of a published checkpoint, with a record of which were used and which did not fit.

    Args:
        tensors: The state dict.
        what: Name of the model, for error messages.
        prefix: Start of the names that belong to the model; all methods take and return names without it.
    """

    def __init__(self, tensors: Mapping[str, Tensor], what: str, prefix: str = "") -> None:
        self._tensors, self._what, self._prefix = tensors, what, prefix
        self._taken: set[str] = set()
        self._missing: list[str] = []
        self._misshapen: list[str] = []

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor that determines the size of the network.

        Args:
            name: Name in the published checkpoint.

        Returns:
            The shape.

        Raises:
            UserError: If there is no such tensor.
        """
        name = self._prefix + name
        if name not in self._tensors:
            raise UserError(f"this is no state dict of {self._what}: it has no {name}, but {self._first_names()}")
        return tuple(self._tensors[name].shape)

    def count(self, prefix: str) -> int:
        """Count the numbered modules with a prefix.

        Args:
            prefix: For example "blocks." for ``blocks.0.x`` and ``blocks.1.y``, which counts 2.

        Returns:
            Number of different numbers after the prefix.
        """
        prefix = self._prefix + prefix
        numbers = {name[len(prefix) :].split(".")[0] for name in self._tensors if name.startswith(prefix)}
        return len(numbers)

    def names(self, prefix: str) -> list[str]:
        """List the names with a prefix.

        Args:
            prefix: Start of the names.

        Returns:
            The names in the order of the state dict.
        """
        start = len(self._prefix)
        return [name[start:] for name in self._tensors if name.startswith(self._prefix + prefix)]

    def has(self, name: str) -> bool:
        """Whether there is a tensor with this name.

        Args:
            name: Name in the published checkpoint.

        Returns:
            True if the state dict contains it.
        """
        return self._prefix + name in self._tensors

    def take(self, name: str, shape: Iterable[int]) -> Tensor:
        """Return a tensor and mark it as used. `check` reports all tensors that are missing or misshapen.

        Args:
            name: Name in the published checkpoint.
            shape: Expected shape.

        Returns:
            The tensor of that shape in at least float32, or an uninitialized one if it is missing or misshapen.
        """
        shape, name = tuple(shape), self._prefix + name
        self._taken.add(name)
        if name not in self._tensors:
            self._missing.append(name)
        elif (found := tuple(self._tensors[name].shape)) != shape:
            self._misshapen.append(f"{name} of shape {found}, wanted {shape}")
        else:
            tensor = self._tensors[name].detach()
            return tensor if tensor.dtype == torch.float64 else tensor.float()
        return torch.empty(shape)

    def require(self, name: str) -> None:
        """Mark a tensor as used that this package does not need; `check` reports it if it is missing.

        Args:
            name: Name in the published checkpoint.
        """
        name = self._prefix + name
        self._taken.add(name)
        if name not in self._tensors:
            self._missing.append(name)

    def check(self, ignored: Iterable[str] = ()) -> None:
        """Verify that all tensors fit and all were used.

        Args:
            ignored: Names that may stay unused.

        Raises:
            UserError: With the first names that are missing, have another shape, or were not used.
        """
        known = self._taken | {self._prefix + name for name in ignored}
        left = sorted(name for name in self._tensors.keys() - known if name.startswith(self._prefix))
        problems = [
            f"{verb} {_first(names)}"
            for verb, names in (("lacks", self._missing), ("has", self._misshapen), ("has the unknown", left))
            if names
        ]
        if problems:
            raise UserError(f"this state dict does not fit {self._what}: it {'; '.join(problems)}")

    def _first_names(self) -> str:
        return _first(list(self._tensors)) if self._tensors else "nothing at all"


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
