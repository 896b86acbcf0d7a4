"""Loads the optional dependency gradio, with its statistics of use switched off."""

import os
from typing import Any

from recon4d.errors import UserError

OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Variables of the environment that keep gradio from sending anything to other servers."""


class NoGradioError(UserError):
    """The optional dependency gradio is not installed."""


def load_gradio() -> Any:
    """Import gradio.

    Returns:
        The module `gradio`.

    Raises:
        NoGradioError: If gradio is not installed.
    """
    os.environ.update(OFFLINE)  # read when gradio is imported
    try:
        import gradio  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NoGradioError(f"the app needs gradio: pip install 'recon4d[app]' ({error})") from error
    return gradio
