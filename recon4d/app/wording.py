"""Words and small pieces of HTML of the page."""

from collections.abc import Sequence
from html import escape

from recon4d.app.jobs import JobStatus
from recon4d.app.uploads import Upload

STAGES = {
    "starting": "Starting",
    "reading": "Reading the pictures",
    "network": "Running the network",
    "tracking corners": "Following points from picture to picture",
    "fitting cameras": "Fitting the cameras",
    "computing depth": "Computing distances",
    "finding what moves": "Finding what moves",
    "tracking what moves": "Following what moves",
    "writing": "Writing the result",
    "preparing the 3D view": "Preparing the 3D view",
}
"""What stages are called on the page."""
INTRODUCTION = """# recon4d: a moving 3D scene from a video

Drop a short video, or several pictures of the same place. You get a 3D scene that you can turn, the distance of every
pixel, what moves, and the path of the camera. Everything is computed on this computer.
"""
EMPTY = "The result appears here: a 3D view, a video of distances and of what moves, and the path of the camera."
"""What stands in place of a result."""
CSS = """
.gradio-container { max-width: 1500px !important; margin: auto; }
.status { padding: 10px 14px; border-radius: 8px; background: var(--background-fill-secondary); line-height: 1.5; }
.status.problem { background: #fdecea; color: #7f1d1d; border: 1px solid #f5b5ae; }
.status.done { background: #e8f5e9; color: #14532d; border: 1px solid #a9d8ae; }
.status .lines { font-size: 0.85em; opacity: 0.8; }
.bar { height: 8px; border-radius: 4px; margin: 6px 0; background: var(--border-color-primary); overflow: hidden; }
.bar > div { height: 100%; background: var(--color-accent); transition: width 0.4s; }
.bar.unknown > div { width: 25%; animation: slide 1.6s infinite linear; }
@keyframes slide { from { margin-left: -25%; } to { margin-left: 100%; } }
.placeholder { padding: 80px 24px; text-align: center; opacity: 0.7; border: 1px dashed var(--border-color-primary);
  border-radius: 8px; }
"""
"""Styles of the page, beside those of gradio."""


def status_html(status: JobStatus) -> str:
    """Describe a job.

    Args:
        status: Its status.

    Returns:
        HTML with the stage and a bar, or the reason why it failed.
    """
    if status.state == "failed":
        return problem_html(status.error)
    if status.state == "canceled":
        return _box("Canceled.")
    if status.state == "done":
        return _box(f"Done.{_lines(status.lines)}", "done")
    if status.state == "waiting":
        others = "1 other reconstruction" if status.num_before == 1 else f"{status.num_before} other reconstructions"
        return _box(f"Waiting in line: {others} first." if status.num_before else "Waiting in line.")
    left = "" if status.seconds_left is None else f", about {_duration(status.seconds_left)} left"
    return _box(f"<b>{escape(stage_words(status.stage))}</b>{left}{_bar(status.share)}{_lines(status.lines)}")


def stage_words(stage: str) -> str:
    """Return what a stage is called on the page.

    Args:
        stage: Its name.

    Returns:
        The words.
    """
    return STAGES.get(stage, stage.capitalize())


def problem_html(message: str) -> str:
    """Show a problem in one line.

    Args:
        message: What happened, and what to do.

    Returns:
        HTML.
    """
    return _box(escape(message[:1].upper() + message[1:]), "problem")


def upload_html(upload: Upload) -> str:
    """Describe the chosen clip.

    Args:
        upload: The clip.

    Returns:
        HTML.
    """
    return _box(escape(upload.summary))


def distrust_markdown(problems: Sequence[str], confidence: Sequence[str]) -> str:
    """List what may be wrong with a result, and how exact it is expected to be.

    Args:
        problems: One line for each problem.
        confidence: What the confidences mean, and the expected errors.

    Returns:
        Markdown.
    """
    found = "\n".join(f"- {_plain(line)}" for line in problems) or "Nothing suspicious was found."
    return f"{found}\n\n**How exact it probably is**\n\n" + "\n".join(f"- {_plain(line)}" for line in confidence)


def summary_markdown(lines: Sequence[str]) -> str:
    """List what a result contains.

    Args:
        lines: One line for each topic.

    Returns:
        Markdown.
    """
    return "\n".join(f"- {_plain(line)}" for line in lines)


def time_caption(label: str, number: int, count: int) -> str:
    """Describe the time that the 3D view shows.

    Args:
        label: Name of the time.
        number: Number of the frame, from 0.
        count: Number of frames.

    Returns:
        Markdown.
    """
    return f"Shown: **{label}** (frame {number + 1} of {count}). Drag to turn, scroll to zoom, drag with Ctrl to move."


def _plain(line: str) -> str:
    """A line of text as Markdown that shows it as it is, with a capital letter."""
    text = escape(line[:1].upper() + line[1:])
    return "".join(f"\\{letter}" if letter in "\\`*_[]#" else letter for letter in text)


def _box(content: str, kind: str = "") -> str:
    return f'<div class="status {kind}">{content}</div>'


def _bar(share: float | None) -> str:
    if share is None:
        return '<div class="bar unknown"><div></div></div>'
    return f'<div class="bar"><div style="width: {100 * min(max(share, 0.0), 1.0):.0f}%"></div></div>'


def _lines(lines: Sequence[str]) -> str:
    return "".join(f'<div class="lines">{escape(line)}</div>' for line in lines)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
