"""Output folders are complete or absent, and foreign folders are never replaced."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from walls import names_in

from recon4d.errors import UserError
from recon4d.io import atomic_folder, check_output_folder
from recon4d.io import output_folder as folder
from recon4d.io.files import exchange
from recon4d.io.output_folder import check_adaptation, check_reconstruction


def fill(path: Path, text: str = "new") -> None:
    (path / "scene.npz").write_text(text)


def test_folder_appears_only_at_the_end_with_its_parents(tmp_path):
    target = tmp_path / "some" / "where" / "out"
    with atomic_folder(target, overwrite=False) as partial:
        fill(partial)
        assert partial.parent == target.parent
        assert partial.name.startswith(".out.partial-")
        assert not target.exists()
    assert names_in(target) == {"scene.npz"}
    assert names_in(target.parent) == {"out"}
    # Not mkdtemp's 0700, which would keep colleagues out.
    plain = tmp_path / "plain"
    plain.mkdir()
    assert target.stat().st_mode == plain.stat().st_mode


def fill_and_fail(target: Path, error: type[BaseException]) -> None:
    with atomic_folder(target, overwrite=True) as partial:
        fill(partial)
        raise error


def test_failure_leaves_everything_as_it_was(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            fill_and_fail(target, error)
        assert names_in(tmp_path) == {"out"}
        assert (target / "scene.npz").read_text() == "old"


def test_overwriting_replaces_all_contents(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    (target / "depth.mp4").write_text("old")
    (tmp_path / "link").symlink_to(target)
    with atomic_folder(tmp_path / "link", overwrite=True) as partial:
        fill(partial)
        assert (target / "scene.npz").read_text() == "old"
    assert names_in(tmp_path) == {"out", "link"}
    assert names_in(target) == {"scene.npz"}
    assert (target / "scene.npz").read_text() == "new"


def test_old_folder_is_put_back_if_the_new_one_cannot_be_renamed(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    rename = Path.rename

    def fail_for_the_new_one(path: Path, other: Path) -> Path:
        if ".partial-" in path.name:
            raise OSError("no")
        return rename(path, other)

    monkeypatch.setattr(folder, "exchange", lambda first, second: False)
    monkeypatch.setattr(folder.Path, "rename", fail_for_the_new_one)
    with (
        pytest.raises(UserError, match=r"cannot write the output folder .*: no"),
        atomic_folder(target, overwrite=True) as partial,
    ):
        fill(partial)
    assert names_in(tmp_path) == {"out"}
    assert (target / "scene.npz").read_text() == "old"


def test_replaced_folder_that_cannot_be_deleted_is_named(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    rmtree = folder.shutil.rmtree

    def keep_the_old_folder(path: Path, ignore_errors: bool = False) -> None:
        if ".old-" not in path.name:
            rmtree(path, ignore_errors)

    monkeypatch.setattr(folder.shutil, "rmtree", keep_the_old_folder)
    message = r"replaced could not be deleted and is now .*\.out\.old-"
    with pytest.warns(UserWarning, match=message) as warned, atomic_folder(target, overwrite=True) as partial:
        fill(partial)
    assert (target / "scene.npz").read_text() == "new"
    (left,) = names_in(tmp_path) - {"out"}
    assert left in str(warned[0].message)
    assert (tmp_path / left / "scene.npz").read_text() == "old"


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with atomic_folder("~/out", overwrite=False) as partial:
        fill(partial)
    assert names_in(tmp_path / "out") == {"scene.npz"}


def fill_while_another_does(target: Path) -> None:
    with atomic_folder(target, overwrite=False) as partial:
        fill(partial)
        target.mkdir()
        fill(target, "foreign")


def test_folder_filled_in_the_meantime_is_not_touched(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(UserError, match="not empty"):
        fill_while_another_does(target)
    assert names_in(tmp_path) == {"out"}
    assert (target / "scene.npz").read_text() == "foreign"


def test_foreign_folders_are_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("a cat")
    (tmp_path / "ours").mkdir()
    fill(tmp_path / "ours")
    (tmp_path / "mixed").mkdir()
    fill(tmp_path / "mixed")
    (tmp_path / "mixed" / "notes.txt").write_text("of the user")
    (tmp_path / "odd" / "scene.npz").mkdir(parents=True)
    for name, overwrite, reason in (
        ("file", True, "is a file"),
        ("file/out", False, "would lie in .*file, which is a file"),
        ("photos", False, "is not empty; choose another"),
        ("photos", True, "holds no scene.npz: recon4d did not write it"),
        ("ours", False, "is not empty; choose another"),
        ("mixed", True, "also holds notes.txt, which would be lost"),
        ("odd", True, "holds no scene.npz: recon4d did not write it"),
        ("n" * 250, False, "cannot make the output folder: File name too long"),
        ("n" * 300, False, "cannot make the output folder: File name too long"),
    ):
        with pytest.raises(UserError, match=reason) as refusal:
            check_output_folder(tmp_path / name, overwrite)
        assert "\n" not in str(refusal.value)
        with pytest.raises(UserError, match=reason), atomic_folder(tmp_path / name, overwrite):
            pytest.fail("a refused folder was opened")
    assert names_in(tmp_path) == {"file", "photos", "ours", "mixed", "odd"}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_locations_that_cannot_hold_a_folder_are_refused():
    with pytest.raises(UserError, match=r"cannot make the output folder: .*/proc/out"):
        check_output_folder("/proc/out", overwrite=False)
    with pytest.raises(UserError, match="mount point"):
        check_output_folder("/proc", overwrite=True)


def test_suitable_folders_pass_and_nothing_is_created(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "ours").mkdir()
    fill(tmp_path / "ours")
    check_output_folder(tmp_path / "empty", overwrite=False)
    check_output_folder(tmp_path / "ours", overwrite=True)
    check_output_folder(tmp_path / "new" / "deep", overwrite=False)
    assert names_in(tmp_path) == {"empty", "ours"}
    with atomic_folder(tmp_path / "empty", overwrite=False) as partial:
        fill(partial)
    assert names_in(tmp_path / "empty") == {"scene.npz"}


def test_each_command_replaces_its_own_folders_only(tmp_path):
    checks = {"scene.npz": check_reconstruction, "adaptation.json": check_adaptation}
    for marker, check_replaceable in checks.items():
        target = tmp_path / marker.split(".")[0]
        target.mkdir()
        beside = ["scene.npz", "depth.mp4", "cameras.png", "points.ply"]
        beside += ["model.safetensors"] if check_replaceable is check_adaptation else []
        for name in (marker, *beside):
            (target / name).write_text("old")
        (target / "frames").mkdir()
        with atomic_folder(target, True, check_replaceable) as partial:
            (partial / marker).write_text("new")
        assert (target / marker).read_text() == "new"
        (other,) = set(checks.values()) - {check_replaceable}
        with pytest.raises(UserError, match="will not replace it"):
            check_output_folder(target, True, other)
        (target / "diary.txt").write_text("mine")
        with pytest.raises(UserError, match=r"also holds diary\.txt"):
            check_output_folder(target, True, check_replaceable)


def test_errors_of_the_operating_system_are_user_errors_of_one_line(tmp_path):
    def write() -> None:
        with atomic_folder(tmp_path / "out", overwrite=False):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"^cannot write the output folder .*out: No space left on device$"):
        write()
    assert names_in(tmp_path) == set()


def test_contents_are_synchronized_before_the_rename(tmp_path, monkeypatch):
    target = tmp_path / "out"
    synchronized = []
    monkeypatch.setattr(os, "fsync", lambda file: synchronized.append((os.fstat(file).st_size, target.exists())))
    with atomic_folder(target, overwrite=False) as partial:
        (partial / "frames").mkdir()
        (partial / "frames" / "0.jpg").write_text("picture")
        fill(partial)
    assert sorted(synchronized) == [(3, False), (7, False)]


def test_target_exists_at_every_moment_of_overwriting(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (tmp_path / "other").mkdir()
    if not exchange(target, tmp_path / "other"):
        pytest.skip("this file system cannot exchange folders")
    (tmp_path / "other").rmdir()
    fill(target, "old")
    rename = Path.rename

    def rename_and_look(path: Path, other: Path) -> Path:
        renamed = rename(path, other)
        assert (target / "scene.npz").exists()
        return renamed

    monkeypatch.setattr(folder.Path, "rename", rename_and_look)
    with atomic_folder(target, overwrite=True) as partial:
        fill(partial)
    assert (target / "scene.npz").read_text() == "new"
    assert names_in(tmp_path) == {"out"}


KILLED_RUN = """
import os, sys
from pathlib import Path
from recon4d.io import atomic_folder, output_folder
target, moment = Path(sys.argv[1]), sys.argv[2]
rename = Path.rename

def rename_and_die(path, other):
    rename(path, other)
    os._exit(9)

if moment == "between the renames":
    output_folder.exchange = lambda first, second: False
    Path.rename = rename_and_die
with atomic_folder(target, overwrite=True) as partial:
    (partial / "scene.npz").write_text("new")
    if moment == "while writing":
        os._exit(9)
"""


def run_and_kill(target: Path, moment: str) -> None:
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, str(target), moment], cwd=root, check=False)
    assert killed.returncode == 9


def test_folder_of_a_run_killed_between_the_renames_is_restored(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    run_and_kill(target, "between the renames")
    assert not target.exists()
    with pytest.warns(UserWarning, match="stopped") as warned, pytest.raises(UserError, match="is not empty"):
        check_output_folder(target, overwrite=False)
    assert (target / "scene.npz").read_text() == "old"
    assert names_in(tmp_path) == {"out"}
    restored, removed = (str(one.message) for one in warned)
    assert "was stopped while it replaced" in restored
    assert ".out.partial-" in removed


def test_leftovers_of_a_killed_run_are_named_and_removed(tmp_path):
    target = tmp_path / "out"
    run_and_kill(target, "while writing")
    (leftover,) = names_in(tmp_path)
    assert leftover.startswith(".out.partial-")
    for name in (".out.old-01234567", ".out.probe-01234567", ".other.partial-01234567", ".out.partial-mine"):
        (tmp_path / name).mkdir()
    target.mkdir()
    with pytest.warns(UserWarning, match="removed leftovers of a stopped run") as warned:
        check_output_folder(target, overwrite=False)
    assert names_in(tmp_path) == {"out", ".other.partial-01234567", ".out.partial-mine"}
    (message,) = (str(one.message) for one in warned)
    assert all(name in message for name in (leftover, ".out.old-01234567", ".out.probe-01234567"))


def test_folder_in_use_by_another_run_is_not_removed(tmp_path):
    target = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with atomic_folder(target, overwrite=True) as first:
            fill(first, "first")
            with atomic_folder(target, overwrite=True) as second:
                fill(second, "second")
            assert first.exists()
            assert (target / "scene.npz").read_text() == "second"
    assert (target / "scene.npz").read_text() == "first"
    assert names_in(tmp_path) == {"out"}
