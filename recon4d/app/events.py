"""What happens on the page: between the components of gradio and the controller."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from recon4d.app.controller import Controller, ViewKind
from recon4d.app.examples import Example
from recon4d.app.gradio_loader import load_gradio
from recon4d.app.jobs import DEFECT_MESSAGE, JobStatus
from recon4d.app.options import JobOptions, Tracked
from recon4d.app.reconstruction import AppResult
from recon4d.app.uploads import Upload
from recon4d.app.wording import (
    distrust_markdown,
    problem_html,
    status_html,
    summary_markdown,
    time_caption,
    upload_html,
)
from recon4d.errors import UserError, one_line

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.4
"""Time between two looks at a job."""
PRIVATE = {"api_visibility": "private"}
"""Options of all events: none of them is an interface for programs."""


@dataclass(frozen=True)
class Results:
    """Components of the result."""

    empty: Any
    shown: Any
    kind: Any
    model: Any
    time: Any
    caption: Any
    video: Any
    cameras: Any
    distrust: Any
    summary: Any
    formats: Any
    prepare: Any
    prepared: Any


def reported(handler: Callable) -> Callable:
    """Make a handler of events tell people in one line what went wrong, while the server lives on.

    Args:
        handler: The handler, which may raise `UserError`.

    Returns:
        A handler that raises `gradio.Error` instead; the log has the traceback of a defect.
    """

    @functools.wraps(handler)
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        error_class = load_gradio().Error
        try:
            return handler(*arguments, **keywords)
        except UserError as error:
            raise error_class(one_line(error), print_exception=False) from error
        except error_class:
            raise
        except Exception as error:  # the server must live on, whatever happens
            logger.exception("an event of the page failed")
            raise error_class(DEFECT_MESSAGE, print_exception=False) from error

    return wrapper


@dataclass(frozen=True)
class Events:
    """The handlers of all events, and the components that they change."""

    controller: Controller
    results: Results
    files: Any
    chosen: Any
    preview: Any
    options: list[Any]
    run: Any
    cancel: Any
    status: Any

    def connect(self, page: Any, examples: list[tuple[Any, Example]]) -> None:
        """Connect all events.

        Args:
            page: The page.
            examples: Buttons and their examples.
        """
        from gradio import Request  # pyright: ignore[reportMissingImports]

        results, clip = self.results, [self.files, self.chosen, self.preview, self.run]

        def take(paths, request: Request):
            return self.take_files(paths, _session(request))

        async def start(model, num_frames, is_refined, tracked, drop, request: Request):
            async for values in self.start(_session(request), model, num_frames, is_refined, tracked, drop):
                yield values

        def stop(request: Request):
            self.controller.cancel(_session(request))

        def first(request: Request):
            result = self.controller.status(_session(request)).result
            return None if result is None else str(result.moments[0])

        def show(number, kind, request: Request):
            return self.show(_session(request), number, kind)

        def prepare(formats, drop, request: Request):
            return self.prepare(_session(request), formats, drop)

        def close(request: Request):
            self.controller.close_session(_session(request))

        for trigger in (self.files.upload, self.files.clear, self.files.delete):
            trigger(reported(take), self.files, clip[1:], show_progress_on=self.chosen, **PRIVATE)
        for button, example in examples:
            take_example = self._example_handler(example)
            button.click(reported(take_example), None, clip, show_progress_on=self.chosen, **PRIVATE)
        changed = [self.status, self.run, self.cancel, results.empty, results.shown, results.kind, results.model]
        changed += [results.time, results.caption, results.video, results.cameras, results.distrust]
        changed += [results.summary, results.prepared]
        started = self.run.click(
            start,
            self.options,
            changed,
            concurrency_limit=None,
            show_progress="hidden",
            scroll_to_output=False,
            **PRIVATE,
        )
        # The outputs of a generator arrive twice at its end, and gradio's 3D view loses one that arrives twice.
        started.then(reported(first), None, results.model, show_progress="hidden", **PRIVATE)
        self.cancel.click(reported(stop), None, None, queue=False, **PRIVATE)
        view = {"inputs": [results.time, results.kind], "outputs": [results.model, results.caption]}
        for trigger in (results.time.input, results.kind.input):
            trigger(reported(show), **view, show_progress="hidden", trigger_mode="always_last", **PRIVATE)
        results.prepare.click(
            reported(prepare), [results.formats, self.options[-1]], results.prepared, concurrency_limit=1, **PRIVATE
        )
        page.unload(close)

    def take_files(self, paths: list[str] | None, session: str) -> tuple[Any, ...]:
        """Take uploaded files.

        Args:
            paths: The files; None if they were removed from the page.
            session: Name of the session.

        Returns:
            Values of the description, the preview and the button that starts.
        """
        if not paths:
            self.controller.forget_files(session)
            return self._without_clip("")
        try:
            return self._with_clip(self.controller.take_files(session, paths))
        except UserError as error:
            return self._without_clip(problem_html(one_line(error)))

    def take_example(self, example: Example, session: str) -> tuple[Any, ...]:
        """Take an example.

        Args:
            example: The example.
            session: Name of the session.

        Returns:
            Values of the files, the description, the preview and the button that starts.
        """
        upload = self.controller.take_example(session, example)
        return [str(upload.folder / name) for name in upload.names], *self._with_clip(upload)

    async def start(
        self, session: str, model: str, num_frames: float, is_refined: bool, tracked: Tracked, drop: float
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Reconstruct the clip of a session, and show how far it is.

        Args:
            session: Name of the session.
            model: Name of the model.
            num_frames: Number of frames.
            is_refined: Whether to refine.
            tracked: The frame whose pixels are tracked.
            drop: Percentage of the least confident points that are left out.

        Yields:
            Values of all components of the status and the result.
        """
        try:
            self.controller.start(session, JobOptions(model, int(num_frames), is_refined, tracked, drop))
            status = JobStatus()
        except UserError as error:
            status = JobStatus("failed", error=one_line(error))
        yield self._progress(status)
        while not status.is_finished:
            await asyncio.sleep(POLL_SECONDS)
            status = self.controller.status(session)
            if not status.is_finished:
                yield self._progress(status)
        yield self._progress(status) if status.result is None else self._finished(status, status.result)

    def show(self, session: str, number: float, kind: ViewKind) -> tuple[str, str]:
        """Show another time or kind of the 3D view.

        Args:
            session: Name of the session.
            number: Number of the frame, from 0.
            kind: What to show.

        Returns:
            The file of the view, and the caption.
        """
        path = self.controller.view(session, int(number), kind)
        result = self.controller.status(session).result
        assert result is not None
        shown = min(max(int(number), 0), result.num_frames - 1)
        return str(path), time_caption(result.labels[shown], shown, result.num_frames)

    def prepare(self, session: str, formats: list[str], drop: float) -> Any:
        """Prepare downloads.

        Args:
            session: Name of the session.
            formats: Names of the formats.
            drop: Percentage of the least confident points that are left out.

        Returns:
            Value of the list of files.
        """
        gradio = load_gradio()
        downloads = self.controller.downloads(session, formats, drop)
        for problem in downloads.problems:
            gradio.Warning(problem)
        return gradio.update(value=[str(file) for file in downloads.files], visible=True)

    def _example_handler(self, example: Example) -> Callable:
        from gradio import Request  # pyright: ignore[reportMissingImports]

        def take_example(request: Request) -> tuple[Any, ...]:
            return self.take_example(example, _session(request))

        return take_example

    def _with_clip(self, upload: Upload) -> tuple[Any, ...]:
        update = load_gradio().update
        pictures = [str(path) for path in upload.previews]
        return upload_html(upload), update(value=pictures, visible=True), update(interactive=True)

    def _without_clip(self, message: str) -> tuple[Any, ...]:
        update = load_gradio().update
        return message, update(value=None, visible=False), update(interactive=False)

    def _progress(self, status: JobStatus) -> tuple[Any, ...]:
        """Values while a job runs, and after it has failed: an earlier result stays hidden."""
        update, skip = load_gradio().update, load_gradio().skip
        buttons = update(interactive=status.is_finished), update(interactive=not status.is_finished)
        return status_html(status), *buttons, update(visible=True), update(visible=False), *(skip() for _ in range(9))

    def _finished(self, status: JobStatus, result: AppResult) -> tuple[Any, ...]:
        update = load_gradio().update
        last, count = result.num_frames - 1, result.num_frames
        video, cameras = result.folder / "depth.mp4", result.folder / "cameras.png"
        return (
            status_html(status),
            update(interactive=True),
            update(interactive=False),
            update(visible=False),
            update(visible=True),
            update(value="moment"),
            None,
            update(value=0, maximum=max(last, 1), visible=last > 0),
            time_caption(result.labels[0], 0, count),
            str(video) if video.is_file() else None,
            str(cameras) if cameras.is_file() else None,
            distrust_markdown(result.distrust, result.confidence),
            summary_markdown(result.summary),
            update(value=None, visible=False),
        )


def _session(request: Any) -> str:
    """Name of the session that a request belongs to."""
    return str(request.session_hash)
