"""What the page asks for, in plain Python: uploads, reconstructions, views and downloads of each session."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from recon4d.app.downloads import Downloads, prepare_downloads
from recon4d.app.examples import Example
from recon4d.app.jobs import JobQueue, JobStatus
from recon4d.app.options import JobOptions, Limits
from recon4d.app.sessions import Sessions, require_result
from recon4d.app.uploads import Upload, check_space, clip_in, take_upload
from recon4d.app.worker import Request, Worker
from recon4d.errors import UserError

ViewKind = Literal["moment", "scene"]
"""What the 3D view shows: one time alone, or the whole scene with what moves at that time."""


class Controller:
    """The app without its page. Methods may be called from several threads.

    Args:
        root: Folder for all files of the app.
        limits: Limits of what people may ask for.
        worker: The process that reconstructs; None for a new one.
    """

    def __init__(self, root: Path, limits: Limits, worker: Worker | None = None) -> None:
        self.limits = limits
        self._queue = JobQueue(worker or Worker())
        self._sessions = Sessions(root, self._queue)

    def take_files(self, session_name: str, paths: Sequence[str | Path]) -> Upload:
        """Take uploaded files as the clip of a session, in place of an earlier one.

        Args:
            session_name: Name of the session.
            paths: The files.

        Returns:
            The clip.

        Raises:
            UserError: If the files are no clip, exceed a limit, or do not fit the disk.
        """
        session = self._sessions.get(session_name)
        session.upload = None
        session.upload = take_upload(paths, session.new_folder("upload"), self.limits)
        return session.upload

    def take_example(self, session_name: str, example: Example) -> Upload:
        """Take an example as the clip of a session.

        Args:
            session_name: Name of the session.
            example: The example.

        Returns:
            The clip.

        Raises:
            UserError: As for `take_files`.
        """
        folder = self._sessions.get(session_name).new_folder("example")
        return self.take_files(session_name, example.write(folder))

    def forget_files(self, session_name: str) -> None:
        """Forget the clip of a session.

        Args:
            session_name: Name of the session.
        """
        self._sessions.get(session_name).upload = None

    def start(self, session_name: str, options: JobOptions) -> None:
        """Put a reconstruction of the clip of a session into the queue; an earlier one is canceled.

        Args:
            session_name: Name of the session.
            options: What to do.

        Raises:
            UserError: If no clip is chosen, too many jobs wait, the disk is full, or too many frames are wanted.
        """
        session = self._sessions.get(session_name)
        self.cancel(session_name)
        session.job = None
        if session.upload is None:
            raise UserError("choose a video or pictures first")
        clip_in(session.upload.folder)  # raises if the files are gone
        if options.num_frames > self.limits.frames:
            raise UserError(f"{options.num_frames} frames are wanted; at most {self.limits.frames} are allowed")
        check_space(session.folder)
        run = session.new_folder("run")
        run.mkdir()
        session.job = self._queue.submit(Request(session.upload.folder, run / "results", options))

    def status(self, session_name: str) -> JobStatus:
        """Return the status of the latest reconstruction of a session.

        Args:
            session_name: Name of the session.

        Returns:
            The status; of a session without a job, that of a canceled one.
        """
        job = self._sessions.get(session_name).job
        return JobStatus("canceled") if job is None else self._queue.status(job)

    def cancel(self, session_name: str) -> None:
        """Cancel the reconstruction of a session, if there is one that is not finished.

        Args:
            session_name: Name of the session.
        """
        job = self._sessions.get(session_name).job
        if job is not None:
            self._queue.cancel(job)

    def view(self, session_name: str, number: int, kind: ViewKind) -> Path:
        """Return a 3D view of the result of a session.

        Args:
            session_name: Name of the session.
            number: Number of the frame, from 0; the nearest one that exists is taken.
            kind: What to show.

        Returns:
            A GLB file.

        Raises:
            UserError: If there is no result.
        """
        result = require_result(self._sessions.get(session_name))
        files = result.moments if kind == "moment" else result.scenes
        return files[min(max(number, 0), len(files) - 1)]

    def downloads(self, session_name: str, formats: Sequence[str], drop: float) -> Downloads:
        """Write formats of the result of a session.

        Args:
            session_name: Name of the session.
            formats: Names of formats.
            drop: Percentage of the least confident pixels that are left out of points and surfaces.

        Returns:
            The files.

        Raises:
            UserError: If there is no result, or nothing could be written.
        """
        session = self._sessions.get(session_name)
        result = require_result(session)
        check_space(session.folder)
        return prepare_downloads(result.folder, session.new_folder("downloads"), formats, drop)

    def close_session(self, session_name: str) -> None:
        """End a session: stop its job and remove its files.

        Args:
            session_name: Name of the session.
        """
        self._sessions.close(session_name)

    def close(self) -> None:
        """Cancel all jobs and end the process that reconstructs."""
        self._queue.close()
