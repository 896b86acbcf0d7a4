"""Temporary files and folders are locked while they are in use, and leftovers are found."""

import shutil
from pathlib import Path

import pytest

from recon4d.io import temporaries
from recon4d.io.temporaries import PARTIAL, PROBE, leftovers, remove_leftovers, temporary_file, temporary_folder


def test_temporaries_in_use_are_no_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with temporary_folder(target) as folder, temporary_file(target) as file, temporary_folder(target, PROBE) as probe:
        assert {path.name.rpartition("-")[0] for path in (folder, file)} == {".out.partial"}
        assert probe.name.startswith(".out.probe-")
        assert not list(leftovers(target, [PARTIAL, PROBE]))
        remove_leftovers(target, [PARTIAL, PROBE])
        assert folder.is_dir()
        assert file.is_file()
    assert list(tmp_path.iterdir()) == []


def test_links_and_other_purposes_are_no_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "out"
    (tmp_path / "data").mkdir()
    (tmp_path / ".out.partial-01234567").symlink_to(tmp_path / "data")
    (tmp_path / ".out.old-01234567").mkdir()
    (tmp_path / ".out.partial-89abcdef").mkdir()
    assert [path.name for path in leftovers(target, [PARTIAL])] == [".out.partial-89abcdef"]
    assert not list(leftovers(tmp_path / "none" / "out", [PARTIAL]))


def test_folder_that_is_removed_before_it_is_locked_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = temporaries._lock, []

    def remove_the_first(path: Path) -> int | None:
        descriptor = lock(path)
        if not removed:
            shutil.rmtree(path)
            removed.append(path)
        return descriptor

    monkeypatch.setattr(temporaries, "_lock", remove_the_first)
    with temporary_folder(tmp_path / "out") as folder:
        assert folder.is_dir()
        assert folder not in removed
    assert len(removed) == 1


def test_temporaries_stay_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporaries, "fcntl", None)
    target = tmp_path / "out"
    with temporary_folder(target) as folder:
        remove_leftovers(target)
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
