"""Base class of records: frozen dataclasses of tensors whose annotations name the axes.

An annotation such as ``Float[Tensor, "*batch time 4 4"]`` is all that a record needs to validate a field, stack it into
a batch, slice it by time and move it between devices. Axis names are shared by all fields of a record and by nested
records, so the error for a wrong size names the field and the axis.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

Record = TypeVar("Record", bound="TensorRecord")
FrameIndex = slice | Sequence[int] | Int[Tensor, " frames"]
"""Frames of a record: a slice or a sequence of indices; negative indices count from the end."""


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """Base class of frozen dataclasses of tensors with consistent axes.

    Subclasses are declared ``@dataclass(frozen=True, eq=False)``. A field is a tensor whose jaxtyping axes begin with
    ``*batch``, another record, ``None`` if the annotation allows it, or a plain value, which is passed through
    unchanged.

    Raises:
        ValueError: On construction, if a tensor has the wrong number of axes or dtype or if the sizes of named axes
            disagree.
    """

    __no_type_check__ = True
    """Excludes records from run-time type checkers: they validate themselves, with clearer messages."""

    def __post_init__(self) -> None:
        _bind_axes(self, type(self).__name__, {})

    @property
    def batch_shape(self) -> torch.Size:
        """Sizes of the leading ``*batch`` axes; ``torch.Size([])`` for a single record."""
        sizes: dict[str, Any] = {}
        _bind_axes(self, type(self).__name__, sizes)
        return sizes.get("*batch", torch.Size([]))

    def map(self: Record, function: Callable[[Tensor], Tensor]) -> Record:
        """Apply a function to every tensor, including those of nested records.

        Args:
            function: Function of a tensor of any shape. It must treat the axes of all tensors consistently.

        Returns:
            A record of the results; plain values are unchanged.
        """

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            return value.map(function) if isinstance(value, TensorRecord) else value

        return dataclasses.replace(self, **{name: apply(value) for name, value in _items(self)})

    def to(
        self: Record,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Record:
        """Move the record to a device and convert its floating-point tensors.

        Args:
            device: Target device; None keeps the device.
            dtype: Target type of floating-point tensors (uint8 images keep theirs); None keeps all types.
            non_blocking: Copy asynchronously if possible.

        Returns:
            The converted record.
        """
        return self.map(
            lambda tensor: tensor.to(
                device=device, dtype=dtype if tensor.is_floating_point() else None, non_blocking=non_blocking
            )
        )

    def pin_memory(self: Record) -> Record:
        """Copy the record to page-locked memory; a DataLoader with ``pin_memory=True`` calls this.

        Returns:
            The pinned record.
        """
        return self.map(Tensor.pin_memory)

    def detach(self: Record) -> Record:
        """Detach all tensors from the autograd graph.

        Returns:
            The detached record.
        """
        return self.map(Tensor.detach)

    def __getitem__(self: Record, index: int | slice) -> Record:
        """Index the first batch axis.

        Args:
            index: Position, which removes the axis, or slice, which keeps it.

        Returns:
            The selected record.

        Raises:
            ValueError: If the record has no batch axis.
        """
        if not self.batch_shape:
            raise ValueError(f"{type(self).__name__} has no batch axis to index; select frames with .frames(...)")
        return self.map(lambda tensor: tensor[index])

    def frames(self: Record, index: FrameIndex) -> Record:
        """Select frames.

        Args:
            index: Frames to select: a slice or a sequence of indices; negative indices count from the end.

        Returns:
            The record of the selected frames, in the given order. Fields without a time axis are unchanged.
        """
        axes = _axes_of(type(self))

        def select(name: str, value: Any) -> Any:
            if isinstance(value, TensorRecord):
                return value.frames(index)
            if isinstance(value, Tensor) and "time" in axes[name]:
                return take(value, index, axes[name].index("time") - len(axes[name]))
            return value

        return dataclasses.replace(self, **{name: select(name, value) for name, value in _items(self)})

    @classmethod
    def stack(cls: type[Record], records: Sequence[Record]) -> Record:
        """Stack records along a new first batch axis; suitable as the ``collate_fn`` of a DataLoader.

        Args:
            records: Records of equal shapes, at least one.

        Returns:
            The stacked record. Plain values that differ between the records become ``None``.

        Raises:
            ValueError: If there are no records, if shapes differ, or if an optional field is set in some records only.
        """
        if not records:
            raise ValueError(f"{cls.__name__}.stack requires at least one record")
        names = [name for name, _ in _items(records[0])]
        return cls(**{name: _stack_field(name, [getattr(record, name) for record in records]) for name in names})


def take(tensor: Tensor, index: FrameIndex, axis: int) -> Tensor:
    """Select slices of a tensor along an axis.

    Args:
        tensor: A tensor of any shape.
        index: A slice or a sequence of indices; negative indices count from the end.
        axis: Axis to select along.

    Returns:
        A copy of the selected slices.
    """
    if isinstance(index, slice):
        positions = torch.arange(tensor.shape[axis], device=tensor.device)[index]
    else:
        positions = torch.as_tensor(index, device=tensor.device)
    return tensor.index_select(axis, positions % tensor.shape[axis])


def as_array(tensor: Tensor) -> np.ndarray:
    """Convert a tensor to an array.

    Args:
        tensor: Any tensor.

    Returns:
        The values on the CPU; the array may share memory with the tensor. bfloat16 becomes float32, which represents
        all of its values, because numpy has no bfloat16.
    """
    dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    return tensor.detach().to("cpu", dtype).numpy()


def full_precision(tensor: Tensor) -> Tensor:
    """Convert a tensor to at least float32: half types are widened, float64 is kept.

    Args:
        tensor: A tensor of any shape.

    Returns:
        A float32 or float64 tensor of the same shape.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _items(record: TensorRecord) -> list[tuple[str, Any]]:
    return [(field.name, getattr(record, field.name)) for field in dataclasses.fields(record)]


def _stack_field(name: str, values: list[Any]) -> Any:
    first = values[0]
    if any((value is None) != (first is None) for value in values):
        raise ValueError(f"cannot stack records: only some of them have {name!r}")
    if isinstance(first, Tensor):
        shapes = sorted({tuple(value.shape) for value in values})
        if len(shapes) > 1:
            raise ValueError(f"cannot stack {name!r} with different shapes: {shapes}")
        return torch.stack(values)
    if isinstance(first, TensorRecord):
        return type(first).stack(values)
    return first if all(value == first for value in values) else None


@functools.cache
def _shape_types(record_type: type) -> dict[str, Any]:
    """Map every tensor field to its jaxtyping annotation, which holds axis names and permitted dtypes."""
    return {
        field.name: option
        for field in dataclasses.fields(record_type)
        for option in typing.get_args(field.type) or (field.type,)
        if hasattr(option, "dim_str")
    }


@functools.cache
def _axes_of(record_type: type) -> dict[str, tuple[str, ...]]:
    """Map every tensor field to the names of its axes after ``*batch``."""
    return {
        name: tuple(shape_type.dim_str.replace("*batch", "").split())
        for name, shape_type in _shape_types(record_type).items()
    }


def _bind_axes(record: TensorRecord, path: str, sizes: dict[str, Any]) -> None:
    """Check every named axis against `sizes`, adding the names that are new."""
    axes = _axes_of(type(record))
    for name, value in _items(record):
        if isinstance(value, TensorRecord):
            _bind_axes(value, f"{path}.{name}", sizes)
        elif isinstance(value, Tensor):
            _bind_tensor(value, axes[name], f"{path}.{name}", sizes)
            _check_dtype(value, _shape_types(type(record))[name], f"{path}.{name}")


def _bind_tensor(tensor: Tensor, axes: tuple[str, ...], path: str, sizes: dict[str, Any]) -> None:
    wanted = f"(*batch {' '.join(axes)})".replace(" )", ")")
    if tensor.ndim < len(axes):
        raise ValueError(f"{path} has shape {tuple(tensor.shape)}, wanted {wanted}")
    split = tensor.ndim - len(axes)
    found: list[tuple[str, Any]] = [("*batch", tensor.shape[:split]), *zip(axes, tensor.shape[split:], strict=True)]
    for axis, size in found:
        expected = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
        if size != expected:
            shown: Any = tuple(expected) if isinstance(expected, torch.Size) else expected
            raise ValueError(
                f"{path} has shape {tuple(tensor.shape)}, wanted {wanted} with {axis.strip('*')} = {shown}"
            )


def _check_dtype(tensor: Tensor, shape_type: Any, path: str) -> None:
    given = str(tensor.dtype).removeprefix("torch.")
    if shape_type.dtypes and given not in shape_type.dtypes:
        raise ValueError(f"{path} has dtype {given}, wanted {shape_type.__name__.split('[')[0]}")
