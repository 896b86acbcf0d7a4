"""A function in a process of its own, which can be stopped after a time and may die without taking others along."""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class CrashError(ValueError):
    """The process died while it worked: a segmentation fault, an abort, or the system ran out of memory."""


class Isolated:
    """Calls of a module's function in another process, which is kept for the next call.

    Raises what the function raises, ``TimeoutError`` after `max_seconds`, and `CrashError` where the process died; in
    the last two cases the next call has a new process.
    """

    def __init__(self, function: Callable[..., Any], max_seconds: float) -> None:
        self._function = function
        self._max_seconds = max_seconds
        self._process: Any = None
        self._connection: Any = None

    def __call__(self, *arguments: Any) -> Any:
        if self._process is None:
            self._start()
        self._connection.send(arguments)
        try:
            if not self._connection.poll(self._max_seconds):
                raise TimeoutError(f"took longer than {self._max_seconds:g} seconds")
            answer, error, trace = self._connection.recv()
        except (EOFError, OSError) as broken:
            self.close()
            if isinstance(broken, TimeoutError):
                raise
            raise CrashError(f"{self._function.__name__} died of its own") from broken
        except BaseException:
            # Interrupted while waiting: the answer to this question must not be taken for that to the next.
            self.close()
            raise
        if error is not None:
            error.add_note(trace)
            raise error
        return answer

    def warm_up(self) -> None:
        """Start the process, so that its start is not in the time of the first call."""
        if self._process is None:
            self._start()

    def close(self) -> None:
        """Stop the process."""
        if self._process is None:
            return
        self._connection.close()
        self._process.kill()
        self._process.join()
        self._process = self._connection = None

    def _start(self) -> None:
        # spawn, not fork: a forked process would inherit the locks of threads that it does not have.
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, self._function), daemon=True)
        self._process.start()
        other_end.close()
        self._connection.recv()


def _serve(connection: Connection, function: Callable[..., Any]) -> None:
    connection.send("ready")
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        try:
            message = (function(*arguments), None, "")
        except Exception as error:
            message = (None, error, traceback.format_exc())
        connection.send(message)
