"""An output folder that is whole or not there, so that a run that fails half-way leaves no half answer behind."""

import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recon4d.io.archive import SCENE_FILE_NAME

RESULT_NAMES = frozenset({SCENE_FILE_NAME, "frames", "depth.mp4", "cameras.png", "points.ply"})
"""What a reconstruction leaves in its folder; with anything else in it, the folder is not replaced."""
ADAPTATION_FILE_NAME = "adaptation.json"
ADAPTATION_NAMES = RESULT_NAMES | {ADAPTATION_FILE_NAME, "model.safetensors"}
"""The same of an adaptation."""

CheckOurs = Callable[[Path], None]
"""Raises ``FileExistsError`` for a folder that is not what the command writes, or holds anything beside it."""


def check_reconstruction(target: Path) -> None:
    """Refuse to replace a folder that is no reconstruction's, or holds anything else."""
    _check_holds_only(target, SCENE_FILE_NAME, RESULT_NAMES)


def check_adaptation(target: Path) -> None:
    """Refuse to replace a folder that is no adaptation's, or holds anything else."""
    _check_holds_only(target, ADAPTATION_FILE_NAME, ADAPTATION_NAMES)


def check_output_folder(path: str | Path, overwrite: bool, check_ours: CheckOurs = check_reconstruction) -> None:
    """Refuse `path` as an output folder before anything is computed; nothing is left on the disk.

    Good are a folder that does not exist yet, an empty one and, with `overwrite`, one that `check_ours` lets pass: by
    default one that holds a scene.npz and nothing that a reconstruction does not write. Raises ``OSError`` with one
    line otherwise, and when the folder could not be made where it is wanted.
    """
    target = _resolved(path)
    _check_replaceable(target, overwrite, check_ours)
    place = target.parent
    while not place.exists():
        place = place.parent
    # Permissions, read-only disks and quotas are answered by trying, not by reading mode bits.
    probe = _sibling(place / target.name, "probe")
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise OSError(error.errno, f"cannot make the output folder: {error.strerror}", str(target)) from error


@contextmanager
def atomic_folder(path: str | Path, overwrite: bool, check_ours: CheckOurs = check_reconstruction) -> Iterator[Path]:
    """A temporary folder beside `path`, to be filled in the ``with`` block; at its end it becomes `path`.

    On any exception the temporary folder is removed and what was at `path` is as before. What `overwrite` replaces
    is moved aside first and deleted only when the new folder is in its place. Missing parents are made. Raises
    ``OSError`` as `check_output_folder` does.
    """
    check_output_folder(path, overwrite, check_ours)
    target = _resolved(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _sibling(target, "partial")
    partial.mkdir()
    try:
        yield partial
        # Asked again: the block may have taken hours.
        _check_replaceable(target, overwrite, check_ours)
        _put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _resolved(path: str | Path) -> Path:
    """The folder meant by `path`, links followed: renaming must happen on the disk where the folder really is."""
    return Path(path).expanduser().resolve()


def _sibling(target: Path, purpose: str) -> Path:
    return target.with_name(f".{target.name}.{purpose}-{secrets.token_hex(4)}")


def _check_replaceable(target: Path, overwrite: bool, check_ours: CheckOurs) -> None:
    for parent in target.parents:
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(f"output folder {target} would lie in {parent}, which is a file")
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise NotADirectoryError(f"output folder {target} is a file; wanted a new or empty folder")
    if target.is_mount():
        raise OSError(f"output folder {target} is a mount point, which cannot be replaced; give a folder inside it")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"output folder {target} is not empty; choose another, or ask to overwrite it")
    check_ours(target)


def _check_holds_only(target: Path, marker: str, names: frozenset[str]) -> None:
    """Refuse a folder without the file `marker`, or with anything at its top that is not called as in `names`."""
    if not (target / marker).is_file():
        raise FileExistsError(
            f"output folder {target} is not empty and holds no {marker}: recon4d did not write it and "
            "will not replace it"
        )
    foreign = sorted(path.name for path in target.iterdir() if path.name not in names)
    if foreign:
        raise FileExistsError(
            f"output folder {target} also holds {foreign[0]}, which would be lost; move it away first"
        )


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename `partial` to `target`; what was there returns if that fails and is deleted if it does not."""
    if not target.exists():
        partial.rename(target)
        return
    old = _sibling(target, "old")
    try:
        target.rename(old)
        partial.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if old.exists():
        warnings.warn(f"the folder that {target} replaced could not be deleted and is now {old}", stacklevel=4)
