"""Whatever goes wrong while a file is read, raised as one error that names the file."""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon4d.errors import DataError

# What zipfile, zlib, numpy and torch raise on bytes that are not what they seem.
_DAMAGE = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, EOFError, OverflowError, SyntaxError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError),
)


@contextmanager
def blamed_on(sequence: str, file: Path) -> Iterator[None]:
    """Whatever goes wrong inside, reading `file`, is raised as a `DataError` of `sequence`."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(sequence, file, "is missing") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(sequence, file, reason.removeprefix(f"{file} ")) from error
