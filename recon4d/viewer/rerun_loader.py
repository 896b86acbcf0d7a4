"""The door of rerun, which is installed by an extra: asked for in one place, missed in one line."""

from typing import Any


class NoRerunError(ValueError):
    """rerun is not installed."""


def load_rerun() -> Any:
    """The module `rerun`, with `rerun.blueprint`. Raises `NoRerunError` with how to get it."""
    try:
        import rerun  # pyright: ignore[reportMissingImports]
        import rerun.blueprint  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NoRerunError(f"viewing needs rerun: pip install 'recon4d[view]' ({error})") from error
    return rerun
