"""Reading of npy files that contain pickled objects, without executing code from the file."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from recon4d.io.file_errors import data_errors

ALLOWED_GLOBALS = frozenset(
    {
        *(("numpy", name) for name in ("ndarray", "dtype")),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        *(("builtins", name) for name in ("set", "frozenset", "bytearray", "complex")),
    }
)
"""(module, name) of the callables that a pickle may use: NumPy arrays, dtypes and scalars, and builtin containers.

Dictionaries, lists, strings and numbers need no callable.
"""


def read_npy(sequence: str, file: Path, content: bytes) -> np.ndarray:
    """Parse the content of an npy file.

    Arrays of objects are unpickled with `ALLOWED_GLOBALS` only. Any other callable is refused before it is called.

    Args:
        sequence: Name of the sequence, for error messages.
        file: The file, for error messages.
        content: Bytes of the npy file.

    Returns:
        The array.

    Raises:
        DataError: If the content is damaged or contains an object that is not allowed.
    """
    stream = io.BytesIO(content)
    with data_errors(sequence, file):
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = reader(stream)
        if not dtype.hasobject:
            count = int(np.prod(shape, dtype=np.int64))
            values = np.frombuffer(stream.read(count * dtype.itemsize), dtype=dtype, count=count)
            return values.reshape(shape, order="F" if is_fortran else "C")
        try:
            values = _RestrictedUnpickler(stream, encoding="latin1").load()
        except (MemoryError, AttributeError, RecursionError) as error:
            raise ValueError(f"is damaged: {type(error).__name__}") from error
        if not isinstance(values, np.ndarray) or values.shape != shape:
            raise ValueError("holds an object that is not the array described by its header")
        return values


class _RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that only resolves `ALLOWED_GLOBALS`, because unpickling calls whatever the file names."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Resolve a callable named by the pickle, or raise `pickle.UnpicklingError` if it is not allowed."""
        if (module_name, global_name) in ALLOWED_GLOBALS:
            return super().find_class(module_name, global_name)
        if (module_name, global_name) == ("_codecs", "encode"):
            return _encode_latin1
        raise pickle.UnpicklingError(
            f"uses {module_name}.{global_name}, which is not part of an array; the file was not executed"
        )


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Encode bytes that old pickle protocols store as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"uses the encoding {encoding}; wanted latin1")
    return text.encode("latin1")
