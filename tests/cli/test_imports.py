"""Modules of the command line do not import each other in circles, not even for type checkers or inside functions."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import recon4d.cli

FOLDER = Path(recon4d.cli.__path__[0])


def imported_modules(source: str) -> set[str]:
    """Return the modules of the command line that a module imports anywhere, also in TYPE_CHECKING blocks."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    prefix = "recon4d.cli."
    return {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}


def check_acyclic(sources: dict[str, str]) -> None:
    """Raise `CycleError` if modules, given as name -> source, import each other in a circle."""
    graph = {name: imported_modules(source) & sources.keys() for name, source in sources.items()}
    TopologicalSorter(graph).prepare()


def test_modules_do_not_import_each_other_in_circles() -> None:
    sources = {file.stem: file.read_text() for file in FOLDER.glob("*.py") if file.stem != "__init__"}
    assert imported_modules(sources["reconstruct"]) >= {"reconstruct_options", "reconstruct_pipeline"}
    check_acyclic(sources)


@pytest.mark.parametrize(
    "back",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from recon4d.cli.one import One",
        "def run():\n    from recon4d.cli import one",
        "import recon4d.cli.one",
    ],
)
def test_a_circle_is_found_wherever_the_import_is(back: str) -> None:
    with pytest.raises(CycleError):
        check_acyclic({"one": "from recon4d.cli.two import two", "two": back})
