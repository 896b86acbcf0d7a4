"""What others may use is documented: every public name, and the shapes of the tensors that it takes and gives."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator, Sequence
from typing import Any, Union, get_args, get_origin

import pytest
from torch import Tensor

import recon4d

DEEPER = (
    "recon4d.datasets.synthetic",
    "recon4d.eval.baselines.static",
    "recon4d.io.long_archive",
    "recon4d.io.long_clips",
)
"""Modules inside a room that pages import from."""
MODULES = [f"recon4d.{found.name}" for found in pkgutil.iter_modules(recon4d.__path__)] + list(DEEPER)
SHAPE = re.compile(r"\([*\w]+(, [*\w]+)+\)|\([*\w]+\)|\bscalars?\b|\bany shape\b")
"""How a docstring tells a shape: its axes in brackets, as in (time, 3), or these words."""
COUNTS = "num_"
"""What begins so says by its name what it is."""
CONTAINERS = (types.UnionType, Union, tuple, list, Sequence)
"""Of tensors; in a state dict the names tell the shapes."""


def public(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """What a room exports, or what a file that is no room defines."""
    names = getattr(module, "__all__", None)
    if names is None:
        own = vars(module).items()
        names = [name for name, value in own if getattr(value, "__module__", "") == module.__name__]
    yield from ((name, getattr(module, name)) for name in names if not name.startswith("_"))


def callables(module: types.ModuleType) -> Iterator[tuple[str, Any, str]]:
    """Public functions and classes, and what people call or read of these classes: name, object and docstring."""
    for name, value in public(module):
        if inspect.isclass(value):
            made_by_dataclass = (value.__doc__ or "").startswith(f"{name}(")
            yield name, value, "" if made_by_dataclass else value.__doc__ or ""
            for attribute, member in vars(value).items():
                is_code = isinstance(member, types.FunctionType | property | classmethod | staticmethod)
                if is_code and not attribute.startswith("_") and not attribute.startswith(COUNTS):
                    yield f"{name}.{attribute}", member, _inherited_docstring(value, attribute)
        elif inspect.isroutine(value):
            yield name, value, value.__doc__ or ""


def _inherited_docstring(kind: type, attribute: str) -> str:
    """Of the attribute in the nearest of our classes that says what it is; torch's words on `forward` are no answer."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("recon4d") and attribute in vars(base)]
    return next((doc for base in ours if (doc := vars(base)[attribute].__doc__)), "")


def bare_tensors(value: Any) -> list[str]:
    """Parameters, fields or the answer whose annotation is a tensor, or one of several, without a shape."""
    if isinstance(value, property):
        value = value.fget
    if inspect.isclass(value):
        fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        annotations = {field.name: field.type for field in fields}
    else:
        annotations = inspect.get_annotations(inspect.unwrap(value))
    return [
        name
        for name, kind in annotations.items()
        if kind is Tensor or (get_origin(kind) in CONTAINERS and Tensor in get_args(kind))
    ]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module: str) -> None:
    missing = [name for name, _, docstring in callables(importlib.import_module(module)) if not docstring]
    assert not missing, f"{module} does not say what these are: {', '.join(missing)}"


@pytest.mark.parametrize("module", MODULES)
def test_tensors_have_shapes(module: str) -> None:
    for name, value, docstring in callables(importlib.import_module(module)):
        bare = bare_tensors(value)
        assert not bare or SHAPE.search(docstring), f"{module}.{name} does not tell the shapes of {', '.join(bare)}"


def test_the_package_offers_what_its_rooms_do() -> None:
    for name, home in recon4d._HOME_OF.items():
        assert name in importlib.import_module(home).__all__
        assert getattr(recon4d, name) is getattr(importlib.import_module(home), name)
