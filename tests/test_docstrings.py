"""The public API is documented: every public name, its arguments and return value, and the shapes of its tensors."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
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
"""Modules inside a subpackage that the documentation imports from."""
MODULES = [f"recon4d.{found.name}" for found in pkgutil.iter_modules(recon4d.__path__)] + list(DEEPER)
SHAPE = re.compile(r"\([*\w]+(, [*\w]+)+\)|\([*\w]+\)|\bscalars?\b|\bany shape\b", re.IGNORECASE)
"""How a docstring gives a shape: axes in parentheses, as in (time, 3), or one of these words."""
COUNTS = "num_"
"""Attributes with this prefix are documented by their names."""
CONTAINERS = (types.UnionType, Union, tuple, list, Sequence)
"""Containers of tensors; in a state dict the names give the shapes."""
LEAST_SHARE = 0.95
"""Smallest share of functions whose docstring has the sections that their signature asks for."""


def public(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield what a subpackage exports, or what a single module defines."""
    names = getattr(module, "__all__", None)
    if names is None:
        own = vars(module).items()
        names = [name for name, value in own if getattr(value, "__module__", "") == module.__name__]
    yield from ((name, getattr(module, name)) for name in names if not name.startswith("_"))


def callables(module: types.ModuleType) -> Iterator[tuple[str, Any, str]]:
    """Yield public functions, classes and their public members: name, object and docstring."""
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
    """Return the docstring of the attribute in the nearest class of this package; torch's own do not count."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("recon4d") and attribute in vars(base)]
    return next((doc for base in ours if (doc := vars(base)[attribute].__doc__)), "")


def bare_tensors(value: Any) -> list[str]:
    """Return parameters, fields or "return" that are annotated as tensors (or containers of them) without a shape."""
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
    assert not missing, f"{module} does not document {', '.join(missing)}"


@pytest.mark.parametrize("module", MODULES)
def test_tensors_have_shapes(module: str) -> None:
    for name, value, docstring in callables(importlib.import_module(module)):
        bare = bare_tensors(value)
        assert not bare or SHAPE.search(docstring), f"{module}.{name} does not give the shapes of {', '.join(bare)}"


def functions_of_the_package() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every public function and method of the package, except properties, overloads, overrides and `forward`."""
    for file in sorted(Path(recon4d.__path__[0]).rglob("*.py")):
        module = ast.parse(file.read_text())
        containers = [module, *(node for node in module.body if isinstance(node, ast.ClassDef))]
        for container in containers:
            if isinstance(container, ast.ClassDef) and container.name.startswith("_"):
                continue
            for node in container.body:
                if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.name == "forward":
                    continue
                decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
                if not decorators & {"property", "cached_property", "overload", "override"}:
                    yield f"{file.name}:{node.lineno} {node.name}", node


def _refers_to_the_overridden_method(docstring: str) -> bool:
    return docstring.startswith("See `")


def test_docstrings_have_sections_for_arguments_and_return_values() -> None:
    missing: dict[str, list[str]] = {"Args:": [], "Returns:": []}
    counted = {"Args:": 0, "Returns:": 0}
    for name, node in functions_of_the_package():
        docstring = ast.get_docstring(node) or ""
        if _refers_to_the_overridden_method(docstring):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        has_arguments = any(argument.arg not in ("self", "cls") for argument in arguments)
        returns = ast.unparse(node.returns) if node.returns else "None"
        is_generator = returns.startswith(("Iterator", "Generator"))
        wanted = [("Args:", has_arguments), ("Returns:", returns not in ("None", "NoReturn"))]
        for section, is_wanted in wanted:
            alternatives = (section, "Yields:") if section == "Returns:" and is_generator else (section,)
            counted[section] += is_wanted
            if is_wanted and not any(re.search(rf"^{one}$", docstring, re.MULTILINE) for one in alternatives):
                missing[section].append(name)
    for section, names in missing.items():
        assert counted[section] > 300
        share = 1 - len(names) / counted[section]
        assert share >= LEAST_SHARE, f"{share:.1%} of {counted[section]} have {section} missing in\n" + "\n".join(names)


def test_the_package_exports_what_its_subpackages_define() -> None:
    for name, home in recon4d._MODULE_OF.items():
        assert name in importlib.import_module(home).__all__
        assert getattr(recon4d, name) is getattr(importlib.import_module(home), name)
