"""An output folder is whole or not there, and what is not ours is never replaced."""

import sys
from pathlib import Path

import pytest
from walls import names_in

from recon4d.io import atomic_folder, check_output_folder
from recon4d.io import output_folder as folder
from recon4d.io.output_folder import check_adaptation, check_reconstruction


def fill(path: Path, text: str = "new") -> None:
    (path / "scene.npz").write_text(text)


def test_a_folder_appears_only_at_the_end_with_its_parents(tmp_path):
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


def test_failing_half_way_leaves_everything_as_it_was(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            fill_and_fail(target, error)
        assert names_in(tmp_path) == {"out"}
        assert (target / "scene.npz").read_text() == "old"


def test_overwriting_replaces_everything_in_our_own_folder(tmp_path):
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


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    rename = Path.rename

    def fail_for_the_new_one(path: Path, other: Path) -> Path:
        if ".partial-" in path.name:
            raise OSError("no")
        return rename(path, other)

    monkeypatch.setattr(folder.Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="no"), atomic_folder(target, overwrite=True) as partial:
        fill(partial)
    assert names_in(tmp_path) == {"out"}
    assert (target / "scene.npz").read_text() == "old"


def test_what_was_replaced_and_cannot_be_deleted_is_named(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "old")
    monkeypatch.setattr(folder.shutil, "rmtree", lambda path, ignore_errors: None)
    said = r"replaced could not be deleted and is now .*\.out\.old-"
    with pytest.warns(UserWarning, match=said) as warned, atomic_folder(target, overwrite=True) as partial:
        fill(partial)
    assert (target / "scene.npz").read_text() == "new"
    (left,) = names_in(tmp_path) - {"out"}
    assert left in str(warned[0].message)
    assert (tmp_path / left / "scene.npz").read_text() == "old"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with atomic_folder("~/out", overwrite=False) as partial:
        fill(partial)
    assert names_in(tmp_path / "out") == {"scene.npz"}


def fill_while_another_does(target: Path) -> None:
    with atomic_folder(target, overwrite=False) as partial:
        fill(partial)
        target.mkdir()
        fill(target, "of somebody else")


def test_a_folder_filled_meanwhile_is_not_touched(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(FileExistsError, match="not empty"):
        fill_while_another_does(target)
    assert names_in(tmp_path) == {"out"}
    assert (target / "scene.npz").read_text() == "of somebody else"


def test_what_is_not_ours_is_refused_before_anything_is_computed(tmp_path):
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
        with pytest.raises(OSError, match=reason) as refusal:
            check_output_folder(tmp_path / name, overwrite)
        assert "\n" not in str(refusal.value)
        with pytest.raises(OSError, match=reason), atomic_folder(tmp_path / name, overwrite):
            pytest.fail("a refused folder was opened")
    assert names_in(tmp_path) == {"file", "photos", "ours", "mixed", "odd"}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_places_that_cannot_hold_a_folder_are_refused():
    with pytest.raises(OSError, match=r"cannot make the output folder: .*/proc/out"):
        check_output_folder("/proc/out", overwrite=False)
    with pytest.raises(OSError, match="mount point"):
        check_output_folder("/proc", overwrite=True)


def test_good_output_folders_pass_and_nothing_is_made(tmp_path):
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
    for marker, check_ours in checks.items():
        target = tmp_path / marker.split(".")[0]
        target.mkdir()
        beside = ["scene.npz", "depth.mp4", "cameras.png", "points.ply"]
        beside += ["model.safetensors"] if check_ours is check_adaptation else []
        for name in (marker, *beside):
            (target / name).write_text("old")
        (target / "frames").mkdir()
        with atomic_folder(target, True, check_ours) as partial:
            (partial / marker).write_text("new")
        assert (target / marker).read_text() == "new"
        (other,) = set(checks.values()) - {check_ours}
        with pytest.raises(FileExistsError, match="will not replace it"):
            check_output_folder(target, True, other)
        (target / "diary.txt").write_text("mine")
        with pytest.raises(FileExistsError, match=r"also holds diary\.txt"):
            check_output_folder(target, True, check_ours)
