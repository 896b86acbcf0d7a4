"""Progress of a reconstruction on a terminal: one line with the current stage and the estimated time left."""

import sys
import time
from types import TracebackType

from recon4d.runs.stages import ShownStages

CLEAR_LINE = "\r\033[K"
"""Control sequence that erases the current line of a terminal."""


def clear_progress() -> None:
    """Erase a progress line on stderr, so that a message can take its place; the next update shows the line again."""
    if sys.stderr.isatty():
        sys.stderr.write(CLEAR_LINE)
        sys.stderr.flush()


class StageProgress(ShownStages):
    """One line on stderr such as "fitting cameras, 12 s, about 30 s left"; nothing unless stderr is a terminal."""

    @property
    def is_shown(self) -> bool:
        """Whether stderr is a terminal."""
        return sys.stderr.isatty()

    def show(self) -> None:
        """Replace the line."""
        sys.stderr.write(f"{CLEAR_LINE}{self.describe(time.monotonic())}")
        sys.stderr.flush()

    def print(self, line: str) -> None:
        """Print a line on stdout in place of the progress.

        Args:
            line: The line.
        """
        if self._thread is not None:
            clear_progress()
        print(line, flush=self._thread is not None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Erase the line."""
        super().__exit__(kind, error, trace)
        clear_progress()
