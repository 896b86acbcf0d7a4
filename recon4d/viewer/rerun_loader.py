"""Loads the optional dependency rerun."""

from typing import Any

from recon4d.errors import UserError


class NoRerunError(UserError):
    """The optional dependency rerun is not installed."""


def load_rerun() -> Any:
    """Import rerun.

    Returns:
        The module `rerun`, with `rerun.blueprint` imported.

    Raises:
        NoRerunError: If rerun is not installed.
    """
    try:
        import rerun  # pyright: ignore[reportMissingImports]
        import rerun.blueprint  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NoRerunError(f"the viewer needs rerun: pip install -e '.[view]' ({error})") from error
    return rerun
