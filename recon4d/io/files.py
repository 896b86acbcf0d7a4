"""Atomic writing of single files, and atomic exchange of two paths."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon4d.errors import UserError, one_line
from recon4d.io.temporaries import remove_leftovers, temporary_file

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Constants of ``renameat2(2)``, from Linux's ``fcntl.h``."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file through a temporary file beside it, which replaces it at the end of the ``with`` block.

    The contents are synchronized to the disk before the rename, so that a power failure leaves the old or the new
    file. If the block raises, the temporary file is deleted and `path` stays as it was. Temporary files that killed
    runs left beside `path` are removed with a warning; those of running processes stay.

    Args:
        path: The file to write or replace. Its folder must exist.

    Yields:
        The empty temporary file, to be written in the block.

    Raises:
        UserError: If an `OSError` occurs in the block or while the file is moved, such as a full disk or a missing
            permission.
    """
    remove_leftovers(path)
    try:
        with temporary_file(path) as partial:
            yield partial
            sync_file(partial)
            partial.replace(path)
    except OSError as error:
        # The name of the temporary file, which the error may hold, would only confuse.
        raise UserError(f"cannot write {path}: {error.strerror or one_line(error)}") from error


def sync_file(path: Path) -> None:
    """Write the contents of a file to the disk; a rename may otherwise reach the disk before the contents.

    Args:
        path: An existing file.
    """
    with path.open("r+b" if os.name == "nt" else "rb") as file:  # POSIX can synchronize read-only files too
        os.fsync(file.fileno())


def exchange(first: Path, second: Path) -> bool:
    """Exchange two files or folders in one step, so that both paths exist at every moment.

    Args:
        first: An existing file or folder.
        second: An existing file or folder in the same file system.

    Returns:
        Whether they were exchanged. False means that nothing changed: the operating system or the file system cannot
        exchange paths, or one of the two cannot be renamed.
    """
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:  # a C library without this function
        return False
    renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0
