"""Stages of a reconstruction with their typical durations, from which the time left is estimated."""

import threading
import time
from types import TracebackType
from typing import TypeVar

TYPICAL_SECONDS = {
    "reading": 2.0,
    "network": 1.0,
    "tracking corners": 1.1,
    "fitting cameras": 4.3,
    "computing depth": 0.7,
    "finding what moves": 2.0,
    "tracking what moves": 2.0,
    "writing": 3.0,
}
"""Typical duration of each stage in seconds, in order, for `TYPICAL_FRAMES` frames. Those from the network to depth are
what `python -m benchmarks.refine --no-colmap` prints on two CPU cores; the others are hand-tuned."""
TYPICAL_FRAMES = 8
"""Number of frames of the typical durations, to which they are roughly proportional."""
REFINEMENT_STAGES = (
    "tracking corners",
    "fitting cameras",
    "computing depth",
    "finding what moves",
    "tracking what moves",
)
"""Stages that run only if the clip is refined. The first ones tell how fast the last ones will be."""
INTERVAL = 0.5
"""Seconds between two updates of what is shown."""

S = TypeVar("S", bound="ShownStages")


class Stages:
    """The stages of one reconstruction. This class only prints reports; subclasses also show the stages."""

    def __init__(self, is_refined: bool) -> None:
        """Start the clock.

        Args:
            is_refined: Whether the stages of refinement are expected.
        """
        self._expected = {
            name: seconds for name, seconds in TYPICAL_SECONDS.items() if is_refined or name not in REFINEMENT_STAGES
        }
        self._name, self._fraction, self._scale = "", 0.0, 1.0
        self._measured, self._typical = 0.0, 0.0
        self._started = self._stage_started = time.monotonic()

    def start(self, stage: str) -> None:
        """Start a stage.

        Args:
            stage: A name of `TYPICAL_SECONDS`, or any other name for work that was not expected.
        """
        now = time.monotonic()
        if self._name in REFINEMENT_STAGES:
            self._measured += now - self._stage_started
            self._typical += self._scale * self._expected.get(self._name, 0.0)
        self._name, self._fraction, self._stage_started = stage, 0.0, now

    def advance(self, fraction: float) -> None:
        """Set how much of the current stage is done.

        Args:
            fraction: From 0 to 1.
        """
        self._fraction = fraction

    def expect_frames(self, num_frames: int) -> None:
        """Adapt the expected durations to the length of the clip.

        Args:
            num_frames: Number of frames.
        """
        self._scale = num_frames / TYPICAL_FRAMES

    def skip_refinement(self) -> None:
        """Expect no stages of refinement."""
        for name in REFINEMENT_STAGES:
            self._expected.pop(name, None)

    def print(self, line: str) -> None:
        """Print a line on stdout.

        Args:
            line: The line.
        """
        print(line)

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
        """Estimate the time left from typical durations and from what has been measured of this clip.

        Args:
            now: Time in seconds, as `time.monotonic` returns it.

        Returns:
            Seconds; None while too little is known: before the pass, and in a stage that was not expected or takes
            longer than expected.
        """
        names = list(self._expected)
        if self._name not in names or self._name == "reading":
            return None
        in_stage = now - self._stage_started
        if self._fraction:
            current = in_stage * (1 - self._fraction) / self._fraction
        elif self._name == "network":
            return None  # its duration depends on the model
        else:
            current = self._expect(self._name) - in_stage
        if current < 0:
            return None
        return current + sum(self._expect(name) for name in names[names.index(self._name) + 1 :])

    def _expect(self, name: str) -> float:
        """Expected duration of a stage of this clip, in seconds."""
        pace = self._measured / self._typical if self._typical and name in REFINEMENT_STAGES else 1.0
        return pace * self._scale * self._expected.get(name, 0.0)


class ShownStages(Stages):
    """Stages that are shown while they run. `show` is called at regular intervals inside the `with` block."""

    def __init__(self, is_refined: bool) -> None:
        """Prepare the stages.

        Args:
            is_refined: Whether the stages of refinement are expected.
        """
        super().__init__(is_refined)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self: S) -> S:
        """Begin to show the stages, if there is anyone to see them."""
        if self.is_shown:
            self._thread = threading.Thread(target=self._show_until_stopped, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to show the stages."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def is_shown(self) -> bool:
        """Whether the stages are shown at all."""
        return True

    def show(self) -> None:
        """Show the current stage. Called from a thread of its own."""

    def _show_until_stopped(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self.show()


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
