"""Shows a recording: as a file, in rerun's window, or on a page for the browser."""

import os
import socketserver
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.viewer.recording import View
from recon4d.viewer.rerun_loader import load_rerun

DEFAULT_PORT = 9090
"""Default port of the page (rerun's own default)."""
RECORDING_SUFFIX = ".rrd"
"""File suffix of rerun recordings."""


def save_view(path: str | Path, view: View) -> None:
    """Write a recording to an .rrd file, atomically.

    Args:
        path: The file; an existing one is replaced.
        view: The recording.

    Raises:
        UserError: If the file cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist")
    # A temporary file in the same folder makes the final rename atomic.
    with (
        os_errors_as_user_errors(),
        tempfile.TemporaryDirectory(prefix=f".{path.name}.partial-", dir=path.parent) as folder,
    ):
        partial_path = Path(folder) / path.name
        view.recording.save(partial_path, default_blueprint=view.blueprint)
        view.recording.disconnect()  # flushes the recording and ends the file
        partial_path.replace(path)


def has_display() -> bool:
    """Whether a window can be opened.

    Returns:
        On Linux, whether an X or Wayland display is set; elsewhere True.
    """
    return not sys.platform.startswith("linux") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def open_window(view: View) -> None:
    """Show a recording in rerun's window, which stays open after this process ends.

    Args:
        view: The recording.

    Raises:
        UserError: If the window does not open.
    """
    rerun = load_rerun()
    # rerun is installed beside this Python, even if that folder is not on the path.
    executable = Path(sys.executable).with_name("rerun")
    try:
        rerun.spawn(
            recording=view.recording,
            default_blueprint=view.blueprint,
            executable_path=str(executable) if executable.exists() else None,
            hide_welcome_screen=True,
        )
        view.recording.flush()
    except RuntimeError as error:
        raise UserError(f"rerun's window does not open ({error}); show the scene in the browser instead") from error


@contextmanager
def served(view: View, port: int = DEFAULT_PORT) -> Iterator[str]:
    """Serve a recording to browsers on this machine during the ``with`` block.

    rerun opens `port` to the network, but its page is the same for every scene. The recording is served on the next
    port, which only accepts connections from this machine.

    Args:
        view: The recording.
        port: Port of the page; the next port serves the recording.

    Yields:
        Address of the page.

    Raises:
        UserError: If the ports are invalid or in use.
    """
    rerun = load_rerun()
    if not 0 < port < 65535:
        raise UserError(f"port is {port}; wanted 1 to 65534 (the next port is needed too)")
    with tempfile.TemporaryDirectory(prefix="recon4d-view-") as folder:
        name = f"scene{RECORDING_SUFFIX}"
        save_view(Path(folder) / name, view)
        handler = partial(_RecordingHandler, directory=folder, pages=_origins(port))
        with _listening(port + 1, handler) as server:
            try:
                rerun.serve_web_viewer(web_port=port, open_browser=False)
            except RuntimeError as error:
                raise UserError(f"port {port} cannot be used; choose another port ({error})") from error
            Thread(target=server.serve_forever, daemon=True).start()
            try:
                recording_url = f"http://localhost:{port + 1}/{name}"
                yield f"http://localhost:{port}/?{urlencode({'url': recording_url})}"
            finally:
                server.shutdown()


class _RecordingHandler(SimpleHTTPRequestHandler):
    """Serves the files of one folder to the viewer's page only."""

    def __init__(self, *arguments, pages: tuple[str, ...], **options) -> None:
        self._pages = pages
        super().__init__(*arguments, **options)

    def end_headers(self) -> None:
        """Allow cross-origin access from the viewer's page only."""
        # Otherwise every page that is open in the browser could read the recording.
        origin = self.headers.get("Origin") if self.headers else None
        if origin in self._pages:
            self.send_header("Access-Control-Allow-Origin", origin)
        self.send_header("Vary", "Origin")
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file; a browser that disconnects early is not an error."""
        with suppress(ConnectionError):
            super().copyfile(source, outputfile)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Suppress the log of requests."""


def _origins(port: int) -> tuple[str, ...]:
    return tuple(f"http://{host}:{port}" for host in ("localhost", "127.0.0.1"))


def _listening(port: int, handler: partial) -> socketserver.TCPServer:
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise UserError(f"port {port} cannot be used; choose another port ({error.strerror or error})") from error
