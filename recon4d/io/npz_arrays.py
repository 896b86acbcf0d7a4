"""Named arrays in one npz file that is whole or not there, and comes back bit for bit."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recon4d.io.files import atomic_file


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` to `path` by way of a temporary file beside it. Raises ``OSError`` where it cannot be written."""
    with atomic_file(path) as partial, partial.open("xb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        file.flush()
        os.fsync(file.fileno())  # a rename may reach the disk before what is renamed


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote. Raises ``ValueError`` for a damaged file, ``OSError`` where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except OSError:
        raise
    except Exception as error:  # numpy and zipfile raise whatever the damage leads them to
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
