"""The door of pycolmap, which is installed by an extra: asked for in one place, missed in one line."""

from typing import Any


class NoPycolmapError(ValueError):
    """pycolmap is not installed."""


def load_pycolmap() -> Any:
    """The module `pycolmap`, silent but for errors. Raises `NoPycolmapError` with how to get it."""
    try:
        import pycolmap
    except ImportError as error:
        raise NoPycolmapError("COLMAP needs pycolmap: pip install 'recon4d[colmap]'") from error
    fatal_only = 3
    pycolmap.logging.minloglevel = fatal_only
    return pycolmap
