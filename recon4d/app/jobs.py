"""The queue of reconstructions: one at a time, in the order in which they were asked for."""

import logging
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Literal

from recon4d.app.reconstruction import AppResult
from recon4d.app.worker import DefectError, Line, Progress, Request, StoppedError, Worker
from recon4d.errors import UserError, one_line

logger = logging.getLogger(__name__)

State = Literal["waiting", "running", "done", "failed", "canceled"]
MAX_WAITING = 20
"""Largest number of jobs that wait. Hand-tuned."""
DEFECT_MESSAGE = "something went wrong inside recon4d; the log of the server has the details"
"""What people read of a defect."""


@dataclass(frozen=True)
class JobStatus:
    """What a person sees of a job."""

    state: State = "waiting"
    num_before: int = 0
    """Number of jobs that come first, while it waits."""
    stage: str = ""
    """What is done now."""
    share: float | None = None
    """How much is done, from 0 to 1; None if unknown."""
    seconds_left: float | None = None
    """Estimated time left; None if unknown."""
    lines: tuple[str, ...] = ()
    """Lines for the user so far."""
    result: AppResult | None = None
    """The result, once the job is done."""
    error: str = ""
    """Why it failed, in one line."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed", "canceled")


@dataclass(eq=False)
class Job:
    """One reconstruction in the queue."""

    request: Request
    status: JobStatus = JobStatus()
    stop: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    """Set once the status is final, and nothing writes to the folders of the job any more."""


class JobQueue:
    """Jobs that wait, and the thread that runs them one after the other.

    Args:
        worker: The process that reconstructs; the queue closes it.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run_jobs, daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Job:
        """Add a job to the end of the queue.

        Args:
            request: The job.

        Returns:
            The job, waiting.

        Raises:
            UserError: If too many jobs wait already.
        """
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                raise UserError(f"{MAX_WAITING} reconstructions are waiting already; try again later")
            job = Job(request)
            self._waiting.append(job)
            self._changed.notify_all()
            return job

    def status(self, job: Job) -> JobStatus:
        """Return what is known of a job.

        Args:
            job: A job of this queue.

        Returns:
            Its status.
        """
        with self._changed:
            if job not in self._waiting:
                return job.status
            return replace(job.status, num_before=self._waiting.index(job) + (self._running is not None))

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or stop it if it runs. A finished job stays as it is.

        Args:
            job: A job of this queue.
        """
        with self._changed:
            job.stop.set()
            if job in self._waiting:
                self._waiting.remove(job)
                self._finish(job, state="canceled")

    def close(self) -> None:
        """Cancel all jobs and end the process."""
        with self._changed:
            self._is_closed = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._changed.notify_all()
        for job in jobs:
            self.cancel(job)
        self._thread.join()
        self._worker.close()

    def _run_jobs(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                job = self._running = self._waiting.popleft()
                job.status = replace(job.status, state="running", stage="starting")
            outcome = self._run(job)
            with self._changed:
                self._running = None
                self._finish(job, **outcome)

    def _run(self, job: Job) -> dict:
        """Run one job, and return the last changes of its status."""
        try:
            return {
                "state": "done",
                "result": self._worker.run(job.request, lambda new: self._note(job, new), job.stop),
            }
        except StoppedError:
            return {"state": "canceled"}
        except UserError as error:
            return {"state": "failed", "error": one_line(error)}
        except DefectError as error:
            logger.error("a reconstruction failed:\n%s", error)
        except Exception:  # the queue must live on, whatever happens
            logger.exception("a reconstruction failed")
        return {"state": "failed", "error": DEFECT_MESSAGE}

    def _note(self, job: Job, message: Progress | Line) -> None:
        with self._changed:
            if isinstance(message, Line):
                job.status = replace(job.status, lines=(*job.status.lines, message.text))
            else:
                job.status = replace(
                    job.status, stage=message.stage, share=message.share, seconds_left=message.seconds_left
                )

    def _finish(self, job: Job, **changes: object) -> None:
        job.status = replace(job.status, **changes)  # pyright: ignore[reportArgumentType]
        job.finished.set()
