"""The package itself: lazy public names and subpackages, and the marker file for type checkers."""

import ast
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import recon4d

ROOT = Path(__file__).parents[1]
SUBMODULES = sorted(
    path.stem for path in (ROOT / "recon4d").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
)
SUBMODULES.remove("__init__")


def run_python(program: str) -> str:
    """Run a program in a new interpreter, where nothing of the package is imported; return what it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_no_heavy_package() -> None:
    assert run_python("import recon4d, sys; print('torch' in sys.modules, 'numpy' in sys.modules)") == "False False"


def test_public_names_are_the_ones_that_can_be_imported() -> None:
    assert sorted(recon4d.__all__) == sorted(recon4d._MODULE_OF)
    assert set(recon4d.__all__) <= set(dir(recon4d))
    for name in recon4d.__all__:
        assert getattr(recon4d, name).__name__ == name


def test_type_checkers_see_every_lazy_name() -> None:
    tree = ast.parse((ROOT / "recon4d" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: statement.module
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert imported == {**recon4d._MODULE_OF, **dict.fromkeys(recon4d._SUBMODULES, "recon4d")}


@pytest.mark.end_to_end
def test_subpackages_are_attributes_after_importing_the_package() -> None:
    assert set(SUBMODULES) <= set(dir(recon4d))
    names = ["errors", "geometry", "records", "layers", "losses", "io", "heads", "models", "zoo", "refine", "datasets"]
    names += sorted(set(SUBMODULES) - set(names))  # lower layers first: a higher one would have imported them
    wanted = [f"recon4d.{name}" for name in names]
    program = f"import recon4d\nfor name in {names}: print(getattr(recon4d, name).__name__)"
    assert run_python(program).split() == wanted


def test_no_other_name_is_an_attribute() -> None:
    assert sorted(recon4d._SUBMODULES) == SUBMODULES
    with pytest.raises(AttributeError, match="module 'recon4d' has no attribute 'nothing'"):
        _ = recon4d.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_the_package_is_marked_as_typed() -> None:
    assert (ROOT / "recon4d" / "py.typed").is_file()


@pytest.mark.end_to_end
@pytest.mark.skipif(find_spec("hatchling") is None, reason="building a wheel needs hatchling")
def test_the_wheel_contains_the_marker_for_type_checkers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "recon4d/py.typed" in zipfile.ZipFile(wheel).namelist()
