"""Progress of a reconstruction on a terminal: one line with the current stage and the estimated time left."""

import sys
import threading
import time
from types import TracebackType

from recon4d.runs.stages import Stages

CLEAR_LINE = "\r\033[K"
"""Control sequence that erases the current line of a terminal."""
INTERVAL = 0.5
"""Seconds between two updates of the line."""


def clear_progress() -> None:
    """Erase a progress line on stderr, so that a message can take its place; the next update shows the line again."""
    if sys.stderr.isatty():
        sys.stderr.write(CLEAR_LINE)
        sys.stderr.flush()


class StageProgress(Stages):
    """One line on stderr such as "fitting cameras, 12 s, about 30 s left"; nothing unless stderr is a terminal."""

    def __init__(self, is_refined: bool) -> None:
        """Prepare the line; it appears inside the `with` block.

        Args:
            is_refined: Whether the stages of refinement are expected.
        """
        super().__init__(is_refined)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "StageProgress":
        """Start to show the line."""
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._show_until_stopped, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Erase the line."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        clear_progress()

    def print(self, line: str) -> None:
        """Print a line on stdout in place of the progress.

        Args:
            line: The line.
        """
        if self._thread is not None:
            clear_progress()
        print(line, flush=self._thread is not None)

    def _show_until_stopped(self) -> None:
        while not self._stopped.wait(INTERVAL):
            sys.stderr.write(f"{CLEAR_LINE}{self.describe(time.monotonic())}")
            sys.stderr.flush()
