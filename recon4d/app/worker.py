"""The process that reconstructs, apart from the server: it can be stopped at any time, and its end harms nobody.

The process lives between jobs and keeps the model that it used last. It is started at the first job, and again after it
was stopped or has died.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from recon4d.app.options import JobOptions
from recon4d.app.reconstruction import AppResult, reconstruct_folder
from recon4d.errors import UserError, one_line
from recon4d.runs.stages import ShownStages, Stages

POLL_SECONDS = 0.1
"""Time between two looks at messages and at the wish to stop."""
OUT_OF_MEMORY = "the reconstruction stopped suddenly, probably because memory ran out; choose fewer frames"
"""What people read when the process has died."""


@dataclass(frozen=True)
class Request:
    """One reconstruction."""

    inputs: Path
    """Folder of the uploaded files."""
    out: Path
    """Folder of results to write."""
    options: JobOptions
    """What to do."""


@dataclass(frozen=True)
class Progress:
    """Message of the process: what it does now."""

    stage: str
    """Name of the stage."""
    share: float | None
    """How much of the whole reconstruction is done, from 0 to 1; None if unknown."""
    seconds_left: float | None
    """Estimated time left; None if unknown."""


@dataclass(frozen=True)
class Line:
    """Message of the process: a line for the user."""

    text: str


@dataclass(frozen=True)
class Problem:
    """Message of the process: the job has failed, and a person can change that."""

    text: str


@dataclass(frozen=True)
class Defect:
    """Message of the process: the job has failed by a defect of the package."""

    trace: str


Message = Progress | Line | Problem | Defect | AppResult


class StoppedError(Exception):
    """The job was stopped on request."""


class DefectError(Exception):
    """The job has failed by a defect of the package; the message is the traceback in the process."""


Reconstruct = Callable[[Path, Path, JobOptions, Stages], AppResult]
"""The function that the process runs, `reconstruct_folder` except in tests. It must be importable by its name."""


class SentStages(ShownStages):
    """Stages that are sent to the server."""

    def __init__(self, is_refined: bool, send: Callable[[Message], None]) -> None:
        """Prepare the stages.

        Args:
            is_refined: Whether the stages of refinement are expected.
            send: Sends a message.
        """
        super().__init__(is_refined)
        self._send = send

    def start(self, stage: str) -> None:
        """Start a stage, and tell the server at once.

        Args:
            stage: As for `Stages.start`.
        """
        super().start(stage)
        self.show()

    def show(self) -> None:
        """Send the current stage."""
        now = time.monotonic()
        left = self.estimate_left(now)
        elapsed = now - self._started
        share = None if left is None else elapsed / max(elapsed + left, 1e-9)
        self._send(Progress(self._name, share, left))

    def print(self, line: str) -> None:
        """Send a line.

        Args:
            line: The line.
        """
        self._send(Line(line))


class Worker:
    """The process, as the server sees it. One job at a time.

    Args:
        reconstruct: The function that the process runs.
    """

    def __init__(self, reconstruct: Reconstruct = reconstruct_folder) -> None:
        self._reconstruct = reconstruct
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def run(self, request: Request, on_message: Callable[[Progress | Line], None], stop: threading.Event) -> AppResult:
        """Run one job.

        Args:
            request: The job.
            on_message: Receives progress and lines.
            stop: Set to stop the job; the process is ended then.

        Returns:
            The result.

        Raises:
            UserError: If the job has failed and a person can change that, or if the process has died.
            DefectError: If the job has failed by a defect.
            StoppedError: If the job was stopped.
        """
        connection = self._started()
        try:
            connection.send(request)
            while not stop.is_set():
                if not connection.poll(POLL_SECONDS):
                    continue
                message = connection.recv()
                if isinstance(message, AppResult):
                    return message
                if isinstance(message, Problem):
                    raise UserError(message.text)
                if isinstance(message, Defect):
                    raise DefectError(message.trace)
                on_message(message)
        except (EOFError, OSError) as error:
            self.close()
            raise UserError(OUT_OF_MEMORY) from error
        self.close()
        raise StoppedError

    def close(self) -> None:
        """End the process, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _started(self) -> Connection:
        """Return the connection to the process, started if it does not run."""
        if self._process is not None and self._process.is_alive() and self._connection is not None:
            return self._connection
        self.close()
        # A forked copy of a server with threads may hang.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._reconstruct), daemon=True)
        process.start()
        theirs.close()
        self._process, self._connection = process, ours
        return ours


def _serve(connection: Connection, reconstruct: Reconstruct) -> None:
    """Run jobs until the server ends. This is the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:  # the thread that shows the stages sends too
            connection.send(message)

    try:
        while True:
            send(_run(connection.recv(), reconstruct, send))
    except (EOFError, OSError):
        return  # the server has ended


def _run(request: Request, reconstruct: Reconstruct, send: Callable[[Message], None]) -> Message:
    """Run one job and return its last message."""
    from recon4d.inference import is_out_of_memory

    try:
        with SentStages(request.options.is_refined, send) as stages:
            return reconstruct(request.inputs, request.out, request.options, stages)
    except UserError as error:
        return Problem(one_line(error))
    except Exception as error:  # whatever happens, the server tells the person and lives on
        return Problem(OUT_OF_MEMORY) if is_out_of_memory(error) else Defect(traceback.format_exc())
