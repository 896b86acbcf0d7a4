"""Errors of parsers and of the operating system while a data file is read, raised as one error that names the file."""

import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon4d.errors import DataError, one_line

_DAMAGE = (
    *(ValueError, TypeError, KeyError, EOFError, OverflowError, SyntaxError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
NPZ_DAMAGE = (*_DAMAGE, MemoryError)
"""Exceptions that ``numpy.load`` and ``zipfile`` raise for damaged or foreign bytes. A damaged shape can lead to
`MemoryError`. Guard only calls of these two libraries with it."""
FILE_DAMAGE = (*_DAMAGE, OSError, AttributeError, IndexError, pickle.UnpicklingError)
"""Exceptions that parsers of JSON, text, images, pickles, npz, HDF5 and torch files raise for damaged files."""


def is_there(path: Path) -> bool:
    """Check whether a path that a file names exists.

    Args:
        path: Any path.

    Returns:
        Whether there is a file or folder; False for names that no file can have, such as too long ones, for which
        `Path.exists` raises an error.
    """
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


@contextmanager
def data_errors(sequence: str, file: Path) -> Iterator[None]:
    """Turn the errors of a parser into one `DataError` that names the sequence and the file.

    Put only the call of the parser into the block, because defects of our own code would be reported as damage of
    the file.

    Args:
        sequence: The sequence that the file belongs to.
        file: The file that is read in the block.

    Raises:
        DataError: If the file is missing, cannot be read or is damaged. A `DataError` of the block passes unchanged.
    """
    try:
        yield
    except DataError:
        raise
    except FILE_DAMAGE as error:
        reason = one_line(error).removeprefix(f"{file} ") if is_there(file) else "is missing"
        raise DataError(sequence, file, reason) from error
