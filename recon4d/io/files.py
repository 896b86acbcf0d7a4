"""Atomic writing of single files: a file either appears complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon4d.errors import UserError, one_line
from recon4d.io.temporaries import remove_leftovers, temporary_file


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
