"""The plan of docs/architecture.md holds: floors, strangers, no circles, doors."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recon4d"
PLAN = (ROOT / "docs" / "architecture.md").read_text()
FILES = sorted(PACKAGE.rglob("*.py"))
LIGHT = {"numpy", "torch", "jaxtyping", "recon4d"}
"""What any file may import at its top, beside the standard library."""


def module_of(file: Path) -> str:
    """'heads/camera' for recon4d/heads/camera.py, 'heads' for its __init__, '' for the package's own."""
    return file.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("__init__").rstrip("/")


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading of the plan."""
    section = PLAN.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row] for row in rows]


FLOORS = list(dict.fromkeys(row[0] for row in table("Floors")))[::-1]
FLOOR_OF = {row[1].strip("`"): FLOORS.index(row[0]) for row in table("Floors")}
DOORS = {row[0].strip("`"): set(re.findall(r"`([^`]+)`", row[1])) for row in table("Doors")}


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so at its top (imports for type checkers left out)."""
    tree = ast.parse(file.read_text())
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
            yield from ((alias.name, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module is not None
            yield node.module, at_top


def test_every_room_is_in_the_plan_and_the_plan_has_no_other() -> None:
    rooms = {module_of(file).split("/")[0] for file in FILES} - {""}
    assert rooms == set(FLOOR_OF)
    assert not any("util" in room for room in rooms)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_run_down_and_rooms_on_a_floor_are_strangers(file: Path) -> None:
    room = module_of(file).split("/")[0]
    if not room:
        return  # the package's own __init__ shows the way to every room
    for name, _ in imports(file):
        if name.startswith("recon4d.") and (other := name.split(".")[1]) != room:
            assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} must not import {other}"


def test_no_circles() -> None:
    modules = {module_of(file): file for file in FILES if module_of(file)}
    graph = {
        module: {
            name.removeprefix("recon4d.").replace(".", "/")
            for name, _ in imports(file)
            if name.removeprefix("recon4d.").replace(".", "/") in modules
        }
        for module, file in modules.items()
    }
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_heavy_packages_enter_by_their_doors_and_only_when_used(file: Path) -> None:
    module = module_of(file)
    for name, at_top in imports(file):
        package = name.split(".")[0]
        if package in DOORS:
            assert module in DOORS[package], f"{module} is no door of {package}"
            # The command line is made of tyro: there is nothing to put off.
            assert not at_top or package == "tyro", f"{module} imports {package} before it is used"
        elif at_top and package not in LIGHT:
            assert package in _standard_library(), f"{package} has no door"


def test_every_door_is_used() -> None:
    used = {(name.split(".")[0], module_of(file)) for file in FILES for name, _ in imports(file)}
    planned = {(package, door) for package, doors in DOORS.items() for door in doors}
    assert planned <= used


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_every_file_opens_with_one_sentence(file: Path) -> None:
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    assert docstring, f"{file} does not say what it is for"
    first = docstring.split("\n\n")[0]
    assert first.endswith((".", ":"))


def _standard_library() -> frozenset[str]:
    import sys

    return sys.stdlib_module_names


def test_annotations_are_checked_while_testing() -> None:
    import torch
    from jaxtyping import TypeCheckError

    from recon4d.geometry import project

    with pytest.raises(TypeCheckError):
        project(torch.zeros(3, 2), torch.eye(3))
