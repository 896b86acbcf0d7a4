"""Atomic files: complete or absent, synchronized, and cleaned up after killed runs."""

import os
import warnings
from pathlib import Path

import pytest

from recon4d.errors import UserError
from recon4d.io import atomic_file


def test_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    target.write_text("old")
    with atomic_file(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]
    # Not mkstemp's 0600, which would keep colleagues out.
    plain = tmp_path / "plain"
    plain.touch()
    assert target.stat().st_mode == plain.stat().st_mode


def test_old_file_stays_if_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_file(target) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_contents_are_synchronized_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "note.txt"
    synchronized: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synchronized.append((os.fstat(file).st_size, target.exists())))
    with atomic_file(target) as partial:
        partial.write_text("new")
    assert synchronized == [(3, False)]


def test_errors_of_the_operating_system_are_user_errors_of_one_line(tmp_path: Path) -> None:
    def write(path: Path, error: OSError | None = None) -> None:
        with atomic_file(path) as partial:
            partial.write_text("new")
            if error is not None:
                raise error

    with pytest.raises(UserError, match=r"^cannot write .*note\.txt: No space left on device$"):
        write(tmp_path / "note.txt", OSError(28, "No space left on device"))
    with pytest.raises(UserError, match=r"^cannot write .*note\.txt: No such file or directory$"):
        write(tmp_path / "none" / "note.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*folder: Is a directory$"):
        write(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_leftovers_of_killed_runs_are_named_and_removed(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    leftover = tmp_path / ".note.txt.partial-0123abcd"
    others = [tmp_path / name for name in (".other.txt.partial-0123abcd", ".note.txt.partial-mine", "note.txt.backup")]
    for path in (leftover, *others):
        path.touch()
    message = r"removed leftovers of a stopped run in .*: \.note\.txt\.partial-0123abcd$"
    with pytest.warns(UserWarning, match=message), atomic_file(target) as partial:
        partial.touch()
    assert set(tmp_path.iterdir()) == {target, *others}


def test_file_in_use_by_another_writer_is_not_removed(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with atomic_file(target) as first:
            first.write_text("first")
            with atomic_file(target) as second:
                second.write_text("second")
            assert first.exists()
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]
