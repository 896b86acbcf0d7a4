"""Files of the repository agree with each other: the site, the workflows, the citation and the source distribution."""

import importlib
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import recon4d

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def pages_of(nav: Any) -> list[str]:
    """Return the pages of a part of the navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_of(part)]


def test_the_navigation_of_the_site_names_every_page_once() -> None:
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages_of(SITE["nav"])) == sorted(pages)


def test_the_reference_has_a_page_for_every_subpackage() -> None:
    documented = {
        module
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for module in re.findall(r"^::: (.+)$", page.read_text(), re.MULTILINE)
    }
    subpackages = {f"recon4d.{name}" for name in recon4d._SUBMODULES}
    assert documented >= {"recon4d", *subpackages - {"recon4d.cli"}}
    for module in documented:
        importlib.import_module(module)


def test_the_site_reads_fences_and_included_files() -> None:
    pytest.importorskip("markdown")
    from docs.site_markdown import RepositoryPages

    lines = ["```sh parsed-only: minutes", "   ```python", "[a](docs/api.md#x) and [b](api.md)", "```"]
    assert RepositoryPages().run(lines) == ["```sh", "   ```python", "[a](../api.md#x) and [b](api.md)", "```"]


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == recon4d.__version__
    assert citation["license"] == PROJECT["project"]["license"]


def test_the_workflow_tests_the_versions_of_python_that_are_promised() -> None:
    matrix = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]["tests"]["strategy"]["matrix"]
    classifiers = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    assert matrix["python"] == classifiers
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]


def test_the_source_distribution_holds_every_file_of_the_repository() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    top = {f"/{name.split('/')[0]}" for name in listed.splitlines()}
    added_by_hatch = {"/.gitignore", "/pyproject.toml"}
    assert top - added_by_hatch == set(PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
