"""Progress of a reconstruction on a terminal: one line with the current stage and the estimated time left."""

import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

TYPICAL_SECONDS = {
    "reading": 3.0,
    "network": 15.0,
    "tracking corners": 15.0,
    "fitting cameras": 30.0,
    "computing depth": 20.0,
    "writing": 5.0,
}
"""Typical duration of each stage in seconds, in order; only the ratios matter. Measured with `recon4d reconstruct
examples/freiburg2_desk` on two CPU cores."""
REFINEMENT_STAGES = ("tracking corners", "fitting cameras", "computing depth")
"""Stages that run only if the clip is refined."""
CLEAR_LINE = "\r\033[K"
"""Control sequence that erases the current line of a terminal."""
INTERVAL = 0.5
"""Seconds between two updates of the line."""


def clear_progress(stream: TextIO) -> None:
    """Erase a progress line, so that a message can take its place; the line returns with its next update.

    Args:
        stream: Where the line is; nothing happens unless it is a terminal.
    """
    if stream.isatty():
        stream.write(CLEAR_LINE)
        stream.flush()


class StageProgress:
    """One line on stderr such as "fitting cameras, 12 s, about 30 s left"; nothing unless stderr is a terminal."""

    def __init__(self, is_refined: bool) -> None:
        """Prepare the line; it appears inside the `with` block.

        Args:
            is_refined: Whether the stages of refinement are expected.
        """
        self._stream = sys.stderr
        self._expected = {
            name: seconds for name, seconds in TYPICAL_SECONDS.items() if is_refined or name not in REFINEMENT_STAGES
        }
        self._name, self._fraction = "", 0.0
        self._started = self._stage_started = time.monotonic()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start to show the line."""
        if self._stream.isatty():
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
        clear_progress(self._stream)

    def start(self, stage: str) -> None:
        """Start a stage.

        Args:
            stage: A name of `TYPICAL_SECONDS`, or any other name for work that was not expected.
        """
        self._name, self._fraction, self._stage_started = stage, 0.0, time.monotonic()

    def advance(self, fraction: float) -> None:
        """Set how much of the current stage is done.

        Args:
            fraction: From 0 to 1.
        """
        self._fraction = fraction

    def skip_refinement(self) -> None:
        """Expect no stages of refinement."""
        for name in REFINEMENT_STAGES:
            self._expected.pop(name, None)

    def print(self, line: str) -> None:
        """Print a line on stdout in place of the progress.

        Args:
            line: The line.
        """
        if self._thread is not None:
            clear_progress(self._stream)
        print(line, flush=self._thread is not None)

    def describe(self, now: float) -> str:
        """Describe the current stage.

        Args:
            now: Time in seconds, as `time.monotonic` returns it.

        Returns:
            The name of the stage, the seconds since the start and, if it can be estimated, the time left.
        """
        left = self.estimate_left(now)
        text = f"{self._name}, {now - self._started:.0f} s"
        return text if left is None else f"{text}, about {_format_seconds(left)} left"

    def estimate_left(self, now: float) -> float | None:
        """Estimate the time left from the stages that are done and their typical durations.

        Args:
            now: Time in seconds, as `time.monotonic` returns it.

        Returns:
            Seconds; None in stages that were not expected and while too little is done to tell.
        """
        names = list(self._expected)
        if self._name not in self._expected:
            return None
        position = names.index(self._name)
        typical = self._expected[self._name]
        done = sum(self._expected[name] for name in names[:position]) + self._fraction * typical
        later = sum(self._expected[name] for name in names[position + 1 :])
        if done <= self._expected["reading"]:
            return None
        # Seconds per typical second: of this clip and machine.
        pace = (self._stage_started - self._started + self._fraction_seconds(now)) / done
        current = max(0.0, pace * typical - (now - self._stage_started))
        return current + pace * later

    def _fraction_seconds(self, now: float) -> float:
        """Time that the finished fraction of the stage took; stages that report none take no part in the pace."""
        return now - self._stage_started if self._fraction else 0.0

    def _show_until_stopped(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self._stream.write(f"{CLEAR_LINE}{self.describe(time.monotonic())}")
            self._stream.flush()


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
