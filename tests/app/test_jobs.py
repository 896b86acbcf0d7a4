"""The process that reconstructs and the queue before it: order, cancel, failures, and a server that lives on."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recon4d.app.jobs import DEFECT_MESSAGE, MAX_WAITING, Job, JobQueue
from recon4d.app.options import JobOptions
from recon4d.app.reconstruction import AppResult
from recon4d.app.worker import OUT_OF_MEMORY, Request, Worker
from recon4d.errors import UserError

SECONDS = 120.0
"""Longest time to wait for the process, which imports PyTorch first, on a busy machine."""


def fake_reconstruct(inputs: Path, out: Path, options: JobOptions, stages) -> AppResult:
    """Do what the name of the folder says, in place of a reconstruction."""
    stages.start("network")
    stages.print(f"process {os.getpid()}")
    if inputs.name == "refused":
        raise UserError("the clip\nis too dark")
    if inputs.name == "defect":
        raise KeyError("never seen")
    if inputs.name == "killed":
        os._exit(9)
    if inputs.name == "memory":
        raise MemoryError
    if inputs.name == "endless":
        time.sleep(1000)
    out.parent.mkdir(parents=True, exist_ok=True)
    return AppResult(out, ("0.00 s",), (), (), (), (), ())


@pytest.fixture(scope="module")
def queue() -> Iterator[JobQueue]:
    queue = JobQueue(Worker(fake_reconstruct))
    yield queue
    queue.close()


def submit(queue: JobQueue, name: str) -> Job:
    return queue.submit(Request(Path(name), Path("out"), JobOptions("recon4d_mini")))


def finished(job: Job) -> Job:
    assert job.finished.wait(SECONDS)
    return job


def wait_for(condition) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_job_is_done_with_its_result_and_lines(queue: JobQueue):
    status = finished(submit(queue, "clip")).status
    assert status.state == "done"
    assert status.stage == "network"
    assert status.result == AppResult(Path("out"), ("0.00 s",), (), (), (), (), ())


def test_the_process_lives_between_jobs_and_is_replaced_after_a_cancel(queue: JobQueue):
    first, second = finished(submit(queue, "clip")), finished(submit(queue, "clip"))
    assert first.status.lines == second.status.lines
    endless = submit(queue, "endless")
    wait_for(lambda: queue.status(endless).lines)
    started = time.monotonic()
    queue.cancel(endless)
    assert finished(endless).status.state == "canceled"
    assert time.monotonic() - started < 10
    third = finished(submit(queue, "clip"))
    assert third.status.state == "done"
    assert third.status.lines != second.status.lines


def test_jobs_run_in_order_and_waiting_ones_know_their_place(queue: JobQueue):
    endless = submit(queue, "endless")
    wait_for(lambda: queue.status(endless).state == "running")
    waiting = [submit(queue, "clip") for _ in range(3)]
    assert [queue.status(job).num_before for job in waiting] == [1, 2, 3]
    queue.cancel(waiting[1])
    assert finished(waiting[1]).status.state == "canceled"
    assert [queue.status(job).num_before for job in (waiting[0], waiting[2])] == [1, 2]
    queue.cancel(endless)
    assert finished(waiting[2]).status.state == "done"
    assert waiting[0].status.state == "done"


def test_the_queue_has_an_end(queue: JobQueue):
    endless = submit(queue, "endless")
    wait_for(lambda: queue.status(endless).state == "running")
    waiting = [submit(queue, "clip") for _ in range(MAX_WAITING)]
    with pytest.raises(UserError, match="waiting already; try again later"):
        submit(queue, "clip")
    for job in (*waiting, endless):
        queue.cancel(job)
    finished(endless)


def test_failures_are_one_line_and_the_next_job_runs(queue: JobQueue, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.ERROR):
        refused, memory, defect = (finished(submit(queue, name)) for name in ("refused", "memory", "defect"))
    assert (refused.status.state, refused.status.error) == ("failed", "the clip is too dark")
    assert memory.status.error == OUT_OF_MEMORY
    assert defect.status.error == DEFECT_MESSAGE
    assert "never seen" in caplog.text  # the traceback is for the log
    assert "too dark" not in caplog.text
    assert finished(submit(queue, "killed")).status.error == OUT_OF_MEMORY
    assert finished(submit(queue, "clip")).status.state == "done"


def test_closing_ends_the_process_and_all_jobs():
    queue = JobQueue(Worker(fake_reconstruct))
    running, waiting = submit(queue, "endless"), submit(queue, "clip")
    wait_for(lambda: queue.status(running).lines)
    pid = int(queue.status(running).lines[0].split()[1])
    queue.close()
    assert running.status.state == waiting.status.state == "canceled"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not queue._thread.is_alive()
