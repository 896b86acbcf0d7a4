"""Serves the app until it is interrupted, with all its files in one temporary folder."""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon4d.app.controller import Controller
from recon4d.app.gradio_loader import load_gradio
from recon4d.app.options import Limits
from recon4d.app.worker import Worker
from recon4d.errors import UserError, one_line

DEFAULT_PORT = 7860
"""Default port of the page (gradio's own default)."""
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class AppConfig:
    """Where the app is served, and its limits."""

    host: str = "127.0.0.1"
    """Address to listen at: 127.0.0.1 for this machine only, 0.0.0.0 for all that can reach it."""
    port: int = DEFAULT_PORT
    """Port of the page."""
    limits: Limits = DEFAULT_LIMITS
    """Limits of what people may ask for."""


@contextmanager
def served_app(config: AppConfig, worker: Worker | None = None) -> Iterator[str]:
    """Serve the app during the ``with`` block. All its files are removed at the end.

    Args:
        config: Where to serve it.
        worker: The process that reconstructs; None for a new one.

    Yields:
        Address of the page.

    Raises:
        UserError: If gradio is not installed, or the port cannot be used.
    """
    if not 0 < config.port < 65536:
        raise UserError(f"port is {config.port}; wanted 1 to 65535")
    load_gradio()
    from recon4d.app.page import build_page, launch_options

    with tempfile.TemporaryDirectory(prefix="recon4d-app-", ignore_cleanup_errors=True) as folder:
        root = Path(folder).resolve()
        with _environment(GRADIO_TEMP_DIR=str(root)):
            controller = Controller(root, config.limits, worker)
            page = build_page(controller)
            try:
                yield _launch(page, config, launch_options())
            finally:
                with suppress(Exception):  # the server may not have started
                    page.close(verbose=False)
                controller.close()


def _launch(page: Any, config: AppConfig, options: dict[str, Any]) -> str:
    """Start the server and return the address of the page."""
    try:
        _, address, _ = page.launch(
            server_name=config.host,
            server_port=config.port,
            max_file_size=config.limits.upload_megabytes * 10**6,
            **options,
        )
    except OSError as error:
        raise UserError(f"port {config.port} cannot be used; choose another port ({one_line(error)})") from error
    return address


def serve_until_interrupted(config: AppConfig) -> None:
    """Serve the app until Ctrl-C or SIGTERM, and print its address.

    Args:
        config: Where to serve it.

    Raises:
        UserError: As for `served_app`.
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(message)s")
    stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        with served_app(config) as address:
            print(f"{address}\nopen this address in a browser; press Ctrl-C to stop", flush=True)
            if config.host not in ("127.0.0.1", "localhost", "::1"):
                print("everyone who can reach this machine can use the app", flush=True)
            with suppress(KeyboardInterrupt):
                stopped.wait()
        print("\nstopped")
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables of the environment inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
