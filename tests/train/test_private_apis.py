"""Private names of PyTorch are used in one module each, so that a new version breaks one place only."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "recon4d"
ALLOWED = {
    "train/foreach.py": ("torch._foreach_",),
    "models/compilation.py": ("torch._dynamo",),
    "zoo/runtimes/export_model.py": ("torch._dynamo.exc",),
    "models/memory.py": ("torch._subclasses", "torch.utils._python_dispatch", "torch.utils._pytree"),
}
"""Beginnings of the private names that each module may use."""


def private_names(file: Path) -> Iterator[str]:
    """Yield the dotted names below torch with a part that begins with one underscore."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Attribute):
            names = [re.sub(r"^nn\.", "torch.nn.", ast.unparse(node))]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if re.fullmatch(r"torch\.(\w+\.)*_(?!_)\w+(\.\w+)*", name):
                yield name


def test_private_names_of_torch_are_isolated() -> None:
    used: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        for name in private_names(file):
            if not name.startswith(ALLOWED.get(place, ())):
                used.setdefault(place, []).append(name)
    assert not used
