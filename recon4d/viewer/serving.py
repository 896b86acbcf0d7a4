"""Showing a view: a file to share, rerun's window, or a page for the browser."""

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

from recon4d.viewer.recording import View
from recon4d.viewer.rerun_loader import load_rerun

DEFAULT_PORT = 9090
RECORDING_SUFFIX = ".rrd"


def save_view(path: str | Path, view: View) -> None:
    """Write `view` to `path`, an .rrd file that anyone with rerun opens; whole or not at all.

    What was at `path` is replaced. Raises ``OSError`` where it cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    # Beside it, so that taking its place is one step.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.partial-", dir=path.parent) as folder:
        partial_path = Path(folder) / path.name
        view.recording.save(partial_path, default_blueprint=view.blueprint)
        view.recording.disconnect()  # writes what still waits, and the end of the file
        partial_path.replace(path)


def has_display() -> bool:
    """Whether a window can be opened here; asked on Linux only, elsewhere there is always one."""
    return not sys.platform.startswith("linux") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def open_window(view: View) -> None:
    """Show `view` in rerun's own window, which stays when this process ends. Raises ``ValueError`` where it cannot."""
    rerun = load_rerun()
    # The program lies beside this Python even where its folder is not on the path.
    beside = Path(sys.executable).with_name("rerun")
    try:
        rerun.spawn(
            recording=view.recording,
            default_blueprint=view.blueprint,
            executable_path=str(beside) if beside.exists() else None,
            hide_welcome_screen=True,
        )
        view.recording.flush()
    except RuntimeError as error:
        raise ValueError(f"rerun's window does not open ({error}); try --web") from error


@contextmanager
def served(view: View, port: int = DEFAULT_PORT) -> Iterator[str]:
    """Serve `view` to browsers on this machine while the block runs; gives the address to open.

    rerun's page comes from `port`, which it opens to the network, but the page is the same for everyone: the recording
    comes from the next port, and that answers this machine only. Raises ``OSError`` where one of the two is taken.
    """
    rerun = load_rerun()
    if not 0 < port < 65535:
        raise ValueError(f"port is {port}, wanted 1 to 65534 (the next one is needed too)")
    with tempfile.TemporaryDirectory(prefix="recon4d-view-") as folder:
        name = f"scene{RECORDING_SUFFIX}"
        save_view(Path(folder) / name, view)
        handler = partial(_RecordingHandler, directory=folder, pages=_origins(port))
        with _listening(port + 1, handler) as server:
            try:
                rerun.serve_web_viewer(web_port=port, open_browser=False)
            except RuntimeError as error:
                raise OSError(f"port {port} cannot be used; try another with --port ({error})") from error
            Thread(target=server.serve_forever, daemon=True).start()
            try:
                recording_url = f"http://localhost:{port + 1}/{name}"
                yield f"http://localhost:{port}/?{urlencode({'url': recording_url})}"
            finally:
                server.shutdown()


class _RecordingHandler(SimpleHTTPRequestHandler):
    """Files of one folder, for the page of the viewer and no other."""

    def __init__(self, *arguments, pages: tuple[str, ...], **options) -> None:
        self._pages = pages
        super().__init__(*arguments, **options)

    def end_headers(self) -> None:
        # Any page that is open in the browser could read the recording otherwise.
        origin = self.headers.get("Origin") if self.headers else None
        if origin in self._pages:
            self.send_header("Access-Control-Allow-Origin", origin)
        self.send_header("Vary", "Origin")
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        # A browser that leaves before it has everything is no failure of ours.
        with suppress(ConnectionError):
            super().copyfile(source, outputfile)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing of each request."""


def _origins(port: int) -> tuple[str, ...]:
    return tuple(f"http://{host}:{port}" for host in ("localhost", "127.0.0.1"))


def _listening(port: int, handler: partial) -> socketserver.TCPServer:
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise OSError(f"port {port} cannot be used; try another with --port ({error.strerror or error})") from error
