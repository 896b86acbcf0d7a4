"""The layering described in docs/architecture.md holds: imports, cycles, heavy dependencies."""

import ast
import re
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from recon4d.geometry import project

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recon4d"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FILES = sorted(PACKAGE.rglob("*.py"))
LIGHT = {"numpy", "torch", "jaxtyping", "recon4d"}
"""Packages that any module may import at its top, beside the standard library."""


def module_of(file: Path) -> str:
    """Return 'heads/camera' for recon4d/heads/camera.py, 'heads' for its __init__, '' for the package's own."""
    return file.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("__init__").rstrip("/")


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table under a heading of the page."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row] for row in rows]


LAYERS = list(dict.fromkeys(row[0] for row in table("Layers")))[::-1]
LAYER_OF = {row[1].strip("`"): LAYERS.index(row[0]) for row in table("Layers")}
HEAVY = {row[0].strip("`"): set(re.findall(r"`([^`]+)`", row[1])) for row in table("Heavy dependencies")}


@cache
def imports(file: Path) -> list[tuple[str, bool]]:
    """List every module that a file imports and whether the import is at its top; TYPE_CHECKING blocks are skipped."""
    tree, found = ast.parse(file.read_text()), []
    for_checkers = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if node in for_checkers:
            continue
        at_top = node in tree.body
        if isinstance(node, ast.Import):
            found += [(alias.name, at_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            assert node.module is not None
            found.append((node.module, at_top))
    return found


def test_the_page_lists_exactly_the_subpackages_that_exist() -> None:
    subpackages = {module_of(file).split("/")[0] for file in FILES} - {""}
    assert subpackages == set(LAYER_OF)
    assert not any("util" in module_of(file) for file in FILES)


EXCEPTIONS = {("models/scene_model", "zoo"), ("models/scene_model", "inference")}
"""Imports from above that the page names: methods of models that people look for there."""


def test_modules_import_only_from_lower_layers() -> None:
    for file in FILES:
        subpackage = module_of(file).split("/")[0]
        if not subpackage:
            continue  # the package's own __init__ resolves names of every subpackage
        for name, at_top in imports(file):
            if name.startswith("recon4d.") and (other := name.split(".")[1]) != subpackage:
                if (module_of(file), other) in EXCEPTIONS and not at_top:
                    continue
                assert LAYER_OF[other] < LAYER_OF[subpackage], f"{module_of(file)} must not import {other}"


def test_there_are_no_import_cycles() -> None:
    modules = {module_of(file): file for file in FILES if module_of(file)}
    graph = {
        module: {
            name.removeprefix("recon4d.").replace(".", "/")
            for name, _ in imports(file)
            if name.startswith("recon4d.")
            and (imported := name.removeprefix("recon4d.").replace(".", "/")) in modules
            and (module, imported.split("/")[0]) not in EXCEPTIONS
        }
        for module, file in modules.items()
    }
    assert list(TopologicalSorter(graph).static_order())


def test_heavy_packages_are_imported_only_where_listed_and_only_inside_functions() -> None:
    for module, name, at_top in ((module_of(file), *found) for file in FILES for found in imports(file)):
        package = name.split(".")[0]
        if package in HEAVY:
            assert module in HEAVY[package], f"{module} is not listed as a user of {package}"
            # The command line is built on tyro, and models on a class of the hub, so deferring them gains nothing.
            may_be_at_top = package == "tyro" or (package, module) == ("huggingface_hub", "models/scene_model")
            assert not at_top or may_be_at_top, f"{module} imports {package} at its top"
        elif at_top and package not in LIGHT:
            assert package in sys.stdlib_module_names, f"{module}: {package} is not listed as a heavy dependency"


def test_every_listed_user_of_a_heavy_package_imports_it() -> None:
    used = {(name.split(".")[0], module_of(file)) for file in FILES for name, _ in imports(file)}
    listed = {(package, module) for package, modules in HEAVY.items() for module in modules}
    assert listed <= used


def test_every_module_opens_with_a_docstring() -> None:
    for file in FILES:
        docstring = ast.get_docstring(ast.parse(file.read_text()))
        assert docstring, f"{file} has no docstring"
        assert docstring.split("\n\n")[0].endswith((".", ":")), file


def test_annotations_are_checked_with_the_option(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--shapes"):
        pytest.skip("annotations are checked with --shapes, as .ci/run does")
    with pytest.raises(TypeCheckError):
        project(torch.zeros(3, 2), torch.eye(3))
