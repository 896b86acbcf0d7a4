"""Access to pycolmap: its import, its log level and its random seed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recon4d.errors import UserError


class NoPycolmapError(UserError):
    """pycolmap cannot be imported: the installation is incomplete."""


def load_pycolmap() -> Any:
    """Import pycolmap.

    Returns:
        The module `pycolmap`.

    Raises:
        NoPycolmapError: If pycolmap is not installed.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise NoPycolmapError(f"pycolmap cannot be imported ({error}); reinstall recon4d or pycolmap") from error
    return pycolmap


@contextmanager
def pycolmap_session(seed: int | None = None) -> Iterator[Any]:
    """Use pycolmap with only fatal messages logged; the previous log level is restored afterwards.

    COLMAP's random generator is one per thread and has no getter, so that its previous state cannot be restored: after
    a session with a seed, the generator of the calling thread is where the session left it. Sessions can be nested.

    Args:
        seed: Seed of COLMAP's random generator. None leaves the generator as it is.

    Yields:
        The module `pycolmap`.

    Raises:
        NoPycolmapError: If pycolmap is not installed.
    """
    pycolmap = load_pycolmap()
    previous_level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    try:
        if seed is not None:
            pycolmap.set_random_seed(seed)
        yield pycolmap
    finally:
        pycolmap.logging.minloglevel = previous_level
