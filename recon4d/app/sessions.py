"""Files and jobs of the people who use the app, kept apart by session and removed at its end."""

import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from recon4d.app.jobs import Job, JobQueue
from recon4d.app.reconstruction import AppResult
from recon4d.app.uploads import Upload
from recon4d.errors import UserError, os_errors_as_user_errors

SESSIONS_FOLDER_NAME = "sessions"
STOPPING_SECONDS = 30.0
"""Longest time to wait for a canceled job before its files are removed. Hand-tuned."""
UPLOAD_SECONDS = 60.0
"""Age from which an uploaded file that no session has taken is removed. Hand-tuned."""


@dataclass(eq=False)
class Session:
    """One open page."""

    folder: Path
    """Folder of everything that belongs to the session."""
    upload: Upload | None = None
    """The clip that is chosen."""
    job: Job | None = None
    """The latest reconstruction."""

    @property
    def result(self) -> AppResult | None:
        """The result of the latest reconstruction, if it is done."""
        return None if self.job is None else self.job.status.result

    def new_folder(self, purpose: str) -> Path:
        """Choose a folder, and remove the earlier ones of the same purpose.

        Args:
            purpose: What the folder is for.

        Returns:
            A folder that does not exist; its parent does.
        """
        for old in self.folder.glob(f"{purpose}-*"):
            shutil.rmtree(old, ignore_errors=True)
        # A new name each time: browsers may keep files of an earlier run under theirs.
        return self.folder / f"{purpose}-{secrets.token_hex(4)}"


class Sessions:
    """The open pages.

    Args:
        root: Folder for all files of the app. Uploads lie in it too, in a folder each.
        queue: The queue of reconstructions.
    """

    def __init__(self, root: Path, queue: JobQueue) -> None:
        self._root = root
        self._queue = queue
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Session:
        """Return the session of a page, which begins if it does not exist.

        Args:
            name: What the server calls the page.

        Returns:
            The session.

        Raises:
            UserError: If its folder cannot be made.
        """
        with self._lock:
            if name not in self._open:
                folder = self._root / SESSIONS_FOLDER_NAME / secrets.token_hex(8)
                with os_errors_as_user_errors("the server cannot store files"):
                    folder.mkdir(parents=True)
                self._open[name] = Session(folder)
            return self._open[name]

    def close(self, name: str) -> None:
        """End a session: stop its job and remove its files.

        Args:
            name: What the server calls the page. Unknown ones are ignored.
        """
        with self._lock:
            session = self._open.pop(name, None)
        if session is None:
            return
        if session.job is not None:
            self._queue.cancel(session.job)
            session.job.finished.wait(STOPPING_SECONDS)
        shutil.rmtree(session.folder, ignore_errors=True)
        self.remove_unused_uploads()

    def remove_unused_uploads(self) -> None:
        """Remove uploaded files that no session has linked into its folder, except those that have just arrived."""
        oldest = time.time() - UPLOAD_SECONDS
        for file in self._root.glob("*/*"):
            if file.parent.name == SESSIONS_FOLDER_NAME or not file.is_file():
                continue
            status = file.stat()
            if status.st_nlink == 1 and status.st_ctime < oldest:
                file.unlink(missing_ok=True)


def require_result(session: Session) -> AppResult:
    """Return the result of a session.

    Args:
        session: The session.

    Returns:
        The result.

    Raises:
        UserError: If there is none, because the session was closed for example.
    """
    if session.result is None or not session.result.folder.is_dir():
        raise UserError("the result is gone, because the connection to the server was lost; reconstruct the clip again")
    return session.result
