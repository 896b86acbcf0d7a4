"""Calls of a function in a separate process, with a time limit and without risk for the calling process."""

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from recon4d.errors import UserError

_EXIT_TIMEOUT = 5.0
"""Seconds to wait for the exit code of a process that has closed its pipe. Hand-tuned."""


class CrashError(RuntimeError):
    """The worker process died: a segmentation fault, an abort, or the system ran out of memory."""


class IsolatedFunction:
    """A function that runs in a worker process, which is kept for the next call.

    After a timeout or a crash, the next call starts a new process.

    Args:
        function: A function of a module; the worker imports it by its name.
        max_seconds: Time limit of one call.
    """

    def __init__(self, function: Callable[..., Any], max_seconds: float) -> None:
        self._function = function
        self._max_seconds = max_seconds
        self._process: Any = None
        self._connection: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Call the function in the worker process.

        Args:
            *arguments: Picklable positional arguments.

        Returns:
            The function's return value.

        Raises:
            TimeoutError: If the call takes longer than the time limit.
            CrashError: If the worker process dies.
            Exception: Whatever the function raises, with the worker's traceback as a note.
        """
        self.warm_up()
        try:
            self._connection.send(arguments)
            is_done = self._connection.poll(self._max_seconds)
            value, error, trace = self._connection.recv() if is_done else (None, None, "")
        except (EOFError, OSError) as broken:
            raise self._crash() from broken
        except BaseException:
            # For example Ctrl-C: a late result of this call must not be taken for the result of the next one.
            self.close()
            raise
        if not is_done:
            self.close()
            raise TimeoutError(f"took longer than {self._max_seconds:g} seconds")
        if error is not None:
            error.add_note(trace)
            raise error
        return value

    def warm_up(self) -> None:
        """Start the worker process, so that its start does not count in the time of the first call.

        Raises:
            CrashError: If the worker process dies while it starts.
        """
        if self._process is not None and not self._process.is_alive():
            self.close()
        if self._process is None:
            self._start()

    def close(self) -> None:
        """Stop the worker process."""
        if self._process is None:
            return
        self._connection.close()
        self._process.kill()
        self._process.join()
        self._process = self._connection = None

    def _start(self) -> None:
        # spawn instead of fork: a forked process inherits locks that are held by threads it does not have.
        context = multiprocessing.get_context("spawn")
        self._connection, worker_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(worker_end, self._function), daemon=True)
        self._process.start()
        worker_end.close()
        try:
            self._connection.recv()
        except (EOFError, OSError) as broken:
            raise self._crash() from broken

    def _crash(self) -> CrashError:
        """Clean up after a worker that has died and describe how it ended."""
        self._process.join(_EXIT_TIMEOUT)
        exit_code = self._process.exitcode
        self.close()
        return CrashError(f"the process of {self._function.__name__} died (exit code {exit_code})")


def _serve(connection: Connection, function: Callable[..., Any]) -> None:
    """Answer calls until the other end of the connection is closed."""
    connection.send("ready")
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        try:
            # Pickled here, so that a value that cannot be sent is reported like any other error of the function.
            message = ForkingPickler.dumps((function(*arguments), None, ""))
        except Exception as error:
            message = ForkingPickler.dumps((None, _as_picklable(error), traceback.format_exc()))
        connection.send_bytes(message)


def _as_picklable(error: Exception) -> Exception:
    """Return the error if it survives pickling, else one of the same kind for the user with the same message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # the constructor of an error class may raise anything when it is unpickled
        if isinstance(error, UserError):
            return UserError(str(error))
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
