"""Temporary files and folders beside their targets, and the removal of those that a killed run left behind.

A temporary of ``NAME`` is called ``.NAME.PURPOSE-TOKEN``; the token consists of eight random hexadecimal digits. A
process holds an exclusive ``flock`` on its temporaries. The operating system releases the lock when the process ends,
even if it is killed, so an unlocked temporary is a leftover. File systems without locks keep their leftovers.
"""

import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PARTIAL = "partial"
"""Purpose of a temporary that is renamed to its target once it is complete."""
OLD = "old"
"""Purpose of a folder that was replaced and waits for its deletion."""
PROBE = "probe"
"""Purpose of a folder that only tests whether folders can be made."""


def temporary_path(target: Path, purpose: str) -> Path:
    """Choose the name of a temporary beside `target`.

    Args:
        target: The file or folder that the temporary belongs to.
        purpose: `PARTIAL`, `OLD` or `PROBE`.

    Returns:
        A path in the folder of `target` that did not exist yet, with overwhelming probability.
    """
    return target.with_name(f".{target.name}.{purpose}-{secrets.token_hex(4)}")


@contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """Create an empty, locked file beside `target`, and delete it at the end if it still has its temporary name.

    Args:
        target: The file that the temporary is to become.

    Yields:
        The temporary file. Write into it rather than replacing it, because the lock belongs to this file.
    """
    with _locked_temporary(target, PARTIAL, lambda path: path.touch(exist_ok=False)) as path:
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def temporary_folder(target: Path, purpose: str = PARTIAL) -> Iterator[Path]:
    """Create an empty, locked folder beside `target`, and delete it at the end if it still has its temporary name.

    Args:
        target: The folder that the temporary belongs to.
        purpose: `PARTIAL` or `PROBE`.

    Yields:
        The temporary folder.
    """
    with _locked_temporary(target, purpose, Path.mkdir) as path:
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def leftovers(target: Path, purposes: Sequence[str]) -> Iterator[Path]:
    """Find the temporaries of `target` that no living process uses.

    Args:
        target: The file or folder that the temporaries belong to.
        purposes: Purposes to look for.

    Yields:
        Each leftover, locked until the iteration proceeds, so that no other process removes it at the same time.
    """
    name = re.compile(rf"\.{re.escape(target.name)}\.({'|'.join(purposes)})-[0-9a-f]{{8}}")
    found: list[str] = []
    with suppress(OSError):  # a folder that cannot be listed, or does not exist
        found = sorted(entry for entry in os.listdir(target.parent) if name.fullmatch(entry))  # noqa: PTH208
    for path in (target.with_name(entry) for entry in found):
        descriptor = None
        with suppress(OSError):  # in use, already removed, or not accessible
            descriptor = None if path.is_symlink() else _lock(path)
        if descriptor is None:
            continue
        try:
            yield path
        finally:
            os.close(descriptor)


def remove_leftovers(target: Path, purposes: Sequence[str] = (PARTIAL,)) -> None:
    """Remove the temporaries of `target` that a killed run left behind, and name them in one warning.

    Args:
        target: The file or folder that the temporaries belong to.
        purposes: Purposes of the temporaries to remove.
    """
    removed = []
    for path in leftovers(target, purposes):
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed.append(path.name)
    if removed:
        warnings.warn(f"removed leftovers of a stopped run in {target.parent}: {', '.join(removed)}", stacklevel=3)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of an existing file or folder, as far as the file system has locks and nobody else holds it.

    Args:
        path: The file or folder. It may be renamed in the block.
    """
    descriptor = None
    with suppress(BlockingIOError):
        descriptor = _lock(path)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _locked_temporary(target: Path, purpose: str, create: Callable[[Path], None]) -> Iterator[Path]:
    path, descriptor = _create_locked(target, purpose, create)
    try:
        yield path
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _create_locked(target: Path, purpose: str, create: Callable[[Path], None]) -> tuple[Path, int | None]:
    """Create a temporary and lock it; repeat if another process removes it before it is locked."""
    while True:
        path = temporary_path(target, purpose)
        create(path)
        try:
            descriptor = _lock(path)
        except (BlockingIOError, FileNotFoundError):
            continue
        if descriptor is None or _is_at(descriptor, path):
            return path, descriptor
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Lock a file or folder exclusively without waiting.

    Returns:
        A descriptor that holds the lock until it is closed, or None if the file system has no locks.

    Raises:
        BlockingIOError: If another descriptor holds the lock.
        OSError: If `path` cannot be opened.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the file or folder that `descriptor` has open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
