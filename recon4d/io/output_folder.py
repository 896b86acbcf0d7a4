"""Atomic output folders: a folder either appears complete or not at all, and foreign folders are never replaced."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.io.archive import SCENE_FILE_NAME
from recon4d.io.files import exchange, sync_file
from recon4d.io.temporaries import (
    OLD,
    PARTIAL,
    PROBE,
    leftovers,
    locked,
    remove_leftovers,
    temporary_folder,
    temporary_path,
)

RESULT_NAMES = frozenset({SCENE_FILE_NAME, "frames", "depth.mp4", "cameras.png", "points.ply"})
"""Names that a reconstruction writes into its folder. A folder with other entries is not replaced."""
ADAPTATION_FILE_NAME = "adaptation.json"
ADAPTATION_NAMES = RESULT_NAMES | {ADAPTATION_FILE_NAME, "model.safetensors"}
"""Names that an adaptation writes into its folder. A folder with other entries is not replaced."""

CheckReplaceable = Callable[[Path], None]
"""Raises `UserError` for a folder that the command did not write, or that holds anything else."""


def check_reconstruction(target: Path) -> None:
    """Refuse to replace a folder that is not, or not only, the output of a reconstruction.

    Args:
        target: An existing folder.

    Raises:
        UserError: If it has no ``scene.npz`` or an entry that a reconstruction does not write.
    """
    _check_holds_only(target, SCENE_FILE_NAME, RESULT_NAMES)


def check_adaptation(target: Path) -> None:
    """Refuse to replace a folder that is not, or not only, the output of an adaptation.

    Args:
        target: An existing folder.

    Raises:
        UserError: If it has no ``adaptation.json`` or an entry that an adaptation does not write.
    """
    _check_holds_only(target, ADAPTATION_FILE_NAME, ADAPTATION_NAMES)


def check_output_folder(
    path: str | Path, overwrite: bool, check_replaceable: CheckReplaceable = check_reconstruction
) -> None:
    """Refuse an unsuitable output folder before anything is computed.

    A folder is suitable if it does not exist yet, is empty or, with `overwrite`, passes `check_replaceable`. The
    function also cleans up after killed runs with the same output folder, with a warning: a folder that was moved aside
    to be replaced is restored, and temporary folders that no running process uses are removed. It creates nothing.

    Args:
        path: The output folder.
        overwrite: Whether an existing folder may be replaced.
        check_replaceable: Raises `UserError` for a folder that must not be replaced.

    Raises:
        UserError: If the folder is unsuitable or cannot be made.
    """
    try:
        target = _resolved(path)
        _recover(target)
        _check_available(target, overwrite, check_replaceable)
        ancestor = target.parent
        while not ancestor.exists():
            ancestor = ancestor.parent
        # Permissions, read-only disks and quotas are found out by trying rather than from mode bits.
        remove_leftovers(ancestor / target.name, [PROBE])
        with temporary_folder(ancestor / target.name, PROBE):
            pass
    except OSError as error:
        raise UserError(f"cannot make the output folder: {error.strerror or error}: {path}") from error


@contextmanager
def atomic_folder(
    path: str | Path, overwrite: bool, check_replaceable: CheckReplaceable = check_reconstruction
) -> Iterator[Path]:
    """Write a folder through a temporary folder beside it, which becomes `path` at the end of the ``with`` block.

    All files are synchronized to the disk before. If the block raises, the temporary folder is deleted and `path`
    stays as it was. An existing folder is exchanged with the new one in a single step if the operating system can do
    that. Otherwise it is moved aside first, and the next run restores it if this one is killed at that moment.

    Args:
        path: The output folder. Missing parents are made.
        overwrite: Whether an existing folder may be replaced.
        check_replaceable: Raises `UserError` for a folder that must not be replaced.

    Yields:
        The empty temporary folder, to be filled in the block.

    Raises:
        UserError: As `check_output_folder`, and if an `OSError` occurs in the block or while the folder is moved, such
            as a full disk.
    """
    check_output_folder(path, overwrite, check_replaceable)
    target = _resolved(path)
    with os_errors_as_user_errors(f"cannot write the output folder {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target) as partial:
            yield partial
            # Checked again, because the block may have taken hours.
            _check_available(target, overwrite, check_replaceable)
            for file in partial.rglob("*"):
                if file.is_file():
                    sync_file(file)
            _move_into_place(partial, target)


def _resolved(path: str | Path) -> Path:
    """Follow links, because renaming must happen on the disk that holds the folder."""
    return Path(path).expanduser().resolve()


def _recover(target: Path) -> None:
    """Restore or remove the leftovers of a killed run beside `target`, with a warning."""
    if not os.path.lexists(target):
        # Killed between the two renames of `_move_into_place`. The latest was the content of `target`.
        replaced = max(leftovers(target, [OLD]), key=lambda path: path.stat().st_ctime_ns, default=None)
        if replaced is not None:
            replaced.rename(target)
            warnings.warn(f"a run was stopped while it replaced {target}: the old folder is restored", stacklevel=4)
    remove_leftovers(target, [PARTIAL, OLD, PROBE])


def _check_available(target: Path, overwrite: bool, check_replaceable: CheckReplaceable) -> None:
    for parent in target.parents:
        if parent.exists() and not parent.is_dir():
            raise UserError(f"output folder {target} would lie in {parent}, which is a file")
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise UserError(f"output folder {target} is a file; wanted a new or empty folder")
    if target.is_mount():
        raise UserError(f"output folder {target} is a mount point, which cannot be replaced; give a folder inside it")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError(f"output folder {target} is not empty; choose another, or ask to overwrite it")
    check_replaceable(target)


def _check_holds_only(target: Path, marker: str, names: frozenset[str]) -> None:
    """Refuse a folder without the file `marker`, or with an entry that is not among `names`."""
    if not (target / marker).is_file():
        raise UserError(
            f"output folder {target} is not empty and holds no {marker}: recon4d did not write it and "
            "will not replace it"
        )
    foreign = sorted(path.name for path in target.iterdir() if path.name not in names)
    if foreign:
        raise UserError(f"output folder {target} also holds {foreign[0]}, which would be lost; move it away first")


def _move_into_place(partial: Path, target: Path) -> None:
    """Rename `partial` to `target` and delete the folder that was there; put that folder back if renaming fails."""
    if not target.exists():
        partial.rename(target)
        return
    old = temporary_path(target, OLD)
    with locked(target):  # so that no other run takes the old folder for a leftover
        if exchange(partial, target):
            partial.rename(old)
        else:
            _replace_in_two_steps(partial, target, old)
        shutil.rmtree(old, ignore_errors=True)
    if old.exists():
        warnings.warn(f"the folder that {target} replaced could not be deleted and is now {old}", stacklevel=5)


def _replace_in_two_steps(partial: Path, target: Path, old: Path) -> None:
    try:
        target.rename(old)
        partial.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
