"""Arrays of objects from files of strangers: unpickled without running anything."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from recon4d.io.file_errors import blamed_on

HARMLESS = frozenset(
    {
        *(("numpy", name) for name in ("ndarray", "dtype")),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        *(("builtins", name) for name in ("set", "frozenset", "bytearray", "complex")),
    }
)
"""What a pickle may call for: numpy's arrays, dtypes and scalars. Dicts, lists and numbers need no call."""


def read_npy(sequence: str, file: Path, content: bytes) -> np.ndarray:
    """The array of an npy file's `content`; one of objects is unpickled for arrays and builtin containers only.

    Raises `DataError` for any other object in it, before that is made, and for damaged data.
    """
    stream = io.BytesIO(content)
    with blamed_on(sequence, file):
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = reader(stream)
        if not dtype.hasobject:
            count = int(np.prod(shape, dtype=np.int64))
            values = np.frombuffer(stream.read(count * dtype.itemsize), dtype=dtype, count=count)
            return values.reshape(shape, order="F" if is_fortran else "C")
        try:
            values = _HarmlessUnpickler(stream, encoding="latin1").load()
        except (MemoryError, AttributeError, RecursionError) as error:
            raise ValueError(f"is damaged: {type(error).__name__}") from error
        if not isinstance(values, np.ndarray) or values.shape != shape:
            raise ValueError("holds an object that is not the array of its header")
        return values


class _HarmlessUnpickler(pickle.Unpickler):
    """Unpickling runs what the file names; this one knows no names but those of arrays."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) in HARMLESS:
            return super().find_class(module_name, global_name)
        if (module_name, global_name) == ("_codecs", "encode"):
            return _latin_bytes
        raise pickle.UnpicklingError(f"asks for {module_name}.{global_name}, which is no array; it was not run")


def _latin_bytes(text: str, encoding: str) -> bytes:
    """How pickles of the old protocols hold bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"asks for the encoding {encoding}")
    return text.encode("latin1")
