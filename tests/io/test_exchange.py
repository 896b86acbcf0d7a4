"""Exchange of two paths in one step."""

import sys
from pathlib import Path

import pytest

from recon4d.io.files import exchange


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange paths")
def test_folders_are_exchanged(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name.txt").write_text(name)
    if not exchange(tmp_path / "first", tmp_path / "second"):
        pytest.skip("this file system cannot exchange folders")
    assert (tmp_path / "first" / "name.txt").read_text() == "second"
    assert (tmp_path / "second" / "name.txt").read_text() == "first"


def test_nothing_changes_if_paths_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first").mkdir()
    assert not exchange(tmp_path / "first", tmp_path / "none")
    (tmp_path / "second").touch()
    monkeypatch.setattr(sys, "platform", "other")
    assert not exchange(tmp_path / "first", tmp_path / "second")
    assert (tmp_path / "first").is_dir()
    assert (tmp_path / "second").is_file()
