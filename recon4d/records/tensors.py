"""Records of tensors: frozen dataclasses that know their own axes from their annotations.

A field annotated ``Float[Tensor, "*batch time 4 4"]`` tells the record everything it needs to be checked, stacked
into a batch, sliced by time and moved between devices. The axis names are shared by all fields of a record and by
the records inside it, so one wrong size anywhere is named in one line.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

Record = TypeVar("Record", bound="TensorRecord")
FrameIndex = slice | Sequence[int] | Int[Tensor, " frames"]
"""Which frames of a record: a slice, or their positions; those below 0 count from the end."""


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """Base of the frozen dataclasses whose tensors travel together.

    Subclasses are declared ``@dataclass(frozen=True, eq=False)``. Fields are tensors with jaxtyping axes (beginning
    with ``*batch``), other records, ``None`` where the annotation allows it, or plain values, which travel along
    unchanged. Raises ``ValueError`` on construction when the sizes of named axes disagree.
    """

    __no_type_check__ = True
    """Records check themselves, always and in words for people: a run-time type checker has nothing to add."""

    def __post_init__(self) -> None:
        _bind_axes(self, type(self).__name__, {})

    @property
    def batch_shape(self) -> torch.Size:
        """The sizes of the leading ``*batch`` axes; ``torch.Size([])`` for a single record."""
        sizes: dict[str, Any] = {}
        _bind_axes(self, type(self).__name__, sizes)
        return sizes.get("*batch", torch.Size([]))

    def map(self: Record, function: Callable[[Tensor], Tensor]) -> Record:
        """The record with `function` applied to every tensor in it, at any depth."""

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
        """The record on `device`; `dtype` is given to floating-point tensors only (images stay uint8)."""
        return self.map(
            lambda tensor: tensor.to(
                device=device, dtype=dtype if tensor.is_floating_point() else None, non_blocking=non_blocking
            )
        )

    def pin_memory(self: Record) -> Record:
        """The record in page-locked memory; a DataLoader with ``pin_memory=True`` calls this."""
        return self.map(Tensor.pin_memory)

    def detach(self: Record) -> Record:
        """The record cut from the graph that computed it."""
        return self.map(Tensor.detach)

    def __getitem__(self: Record, index: int | slice) -> Record:
        """The record at `index` of the first batch axis."""
        if not self.batch_shape:
            raise ValueError(f"{type(self).__name__} has no batch axis to index; frames are chosen by .frames(...)")
        return self.map(lambda tensor: tensor[index])

    def frames(self: Record, index: FrameIndex) -> Record:
        """The record at the frames `index` (a slice or a list); fields without a time axis stay as they are."""
        axes = _axes_of(type(self))

        def choose(name: str, value: Any) -> Any:
            if isinstance(value, TensorRecord):
                return value.frames(index)
            if isinstance(value, Tensor) and "time" in axes[name]:
                return take(value, index, axes[name].index("time") - len(axes[name]))
            return value

        return dataclasses.replace(self, **{name: choose(name, value) for name, value in _items(self)})

    @classmethod
    def stack(cls: type[Record], records: Sequence[Record]) -> Record:
        """One record with a new first batch axis, as a DataLoader's ``collate_fn`` needs it.

        Plain values are kept where all records agree and become ``None`` where they do not.
        """
        if not records:
            raise ValueError(f"{cls.__name__}.stack was given no records")
        names = [name for name, _ in _items(records[0])]
        return cls(**{name: _stack_field(name, [getattr(record, name) for record in records]) for name in names})


def take(tensor: Tensor, index: FrameIndex, axis: int) -> Tensor:
    """`tensor`, of any shape, at `index` (a slice or a list of positions) along `axis`."""
    if isinstance(index, slice):
        positions = torch.arange(tensor.shape[axis], device=tensor.device)[index]
    else:
        positions = torch.as_tensor(index, device=tensor.device)
    return tensor.index_select(axis, positions % tensor.shape[axis])


def full_precision(tensor: Tensor) -> Tensor:
    """A tensor of any shape in at least float32: half types are widened, float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _items(record: TensorRecord) -> list[tuple[str, Any]]:
    return [(field.name, getattr(record, field.name)) for field in dataclasses.fields(record)]


def _stack_field(name: str, values: list[Any]) -> Any:
    first = values[0]
    if any((value is None) != (first is None) for value in values):
        raise ValueError(f"cannot stack records of which only some have {name!r}")
    if isinstance(first, Tensor):
        shapes = sorted({tuple(value.shape) for value in values})
        if len(shapes) > 1:
            raise ValueError(f"cannot stack {name!r} of different shapes: {shapes}")
        return torch.stack(values)
    if isinstance(first, TensorRecord):
        return type(first).stack(values)
    return first if all(value == first for value in values) else None


@functools.cache
def _shape_types(record_type: type) -> dict[str, Any]:
    """For every tensor field its jaxtyping annotation, which carries axis names and permitted dtypes."""
    return {
        field.name: option
        for field in dataclasses.fields(record_type)
        for option in typing.get_args(field.type) or (field.type,)
        if hasattr(option, "dim_str")
    }


@functools.cache
def _axes_of(record_type: type) -> dict[str, tuple[str, ...]]:
    """For every tensor field the names of its axes after ``*batch``."""
    return {
        name: tuple(shape_type.dim_str.replace("*batch", "").split())
        for name, shape_type in _shape_types(record_type).items()
    }


def _bind_axes(record: TensorRecord, path: str, sizes: dict[str, Any]) -> None:
    """Check every named axis against `sizes`, which grows as new names are met."""
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
