"""Reconstruction of many clips, each into a folder of its own, distributed over processes and resumable."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recon4d.errors import UserError, one_line
from recon4d.io import is_complete_result, load_scene_info
from recon4d.io.archive import SCENE_FILE_NAME


@dataclass(frozen=True)
class ClipOutcome:
    """How the reconstruction of one clip ended."""

    clip: str
    """Path of the clip."""
    folder: str
    """Path of its output folder."""
    frames: int | None
    """Number of frames; None if the clip failed."""
    seconds: float | None
    """Time that the reconstruction took, in seconds; None if it was done before."""
    result: Literal["done", "done before", "failed"]
    """Whether the clip was reconstructed now, by an earlier run, or not at all."""
    reason: str = ""
    """Why the clip failed, in one line."""


def output_folders(clips: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Choose a folder under `out` for each clip.

    The folder has the name of the clip without its suffix, or with it if another clip of the same folder has the same
    name otherwise. Names that occur twice are prefixed with as many parent folders as tell them apart: ``a/clip.mp4``
    and ``b/clip.mp4`` become ``a_clip`` and ``b_clip``. Names that differ only in case count as equal, since some file
    systems do not distinguish them.

    Args:
        clips: Paths of the clips. A clip that is given twice counts once.
        out: Parent of all output folders.

    Returns:
        The folder of each clip, in the order given.
    """
    paths = {path: clip for clip in reversed(clips) for path in [clip.resolve()]}
    paths = dict(reversed(paths.items()))
    stems = Counter((path.parent, _stem(path).lower()) for path in paths)
    own = {path: _stem(path) if stems[path.parent, _stem(path).lower()] == 1 else path.name for path in paths}
    names = dict(own)
    for count in range(1, max((len(path.parts) for path in paths), default=0)):
        for path in _duplicates(names):
            names[path] = "_".join([*path.parts[1:-1][-count:], own[path]])
    for number, path in enumerate(_duplicates(names), start=1):
        names[path] = f"{names[path]}_{number}"
    return {clip: out / names[path] for path, clip in paths.items()}


def reconstruct_each(
    folders: Mapping[Path, Path],
    settings_of: Callable[[Path], Mapping[str, object]],
    reconstruct_one: Callable[[Path, Path], int],
    rank: int = 0,
    num_processes: int = 1,
) -> list[ClipOutcome]:
    """Reconstruct this process's share of the clips: every `num_processes`-th of `folders`, starting at `rank`.

    A clip whose folder already contains a complete result with the same settings is skipped. A `UserError` ends only
    the clip that it occurs in; it is printed to stderr and reported. All other exceptions are defects and are passed
    on; finished clips stay on disk, and the next call skips them.

    Args:
        folders: Output folder of each clip.
        settings_of: Returns the settings with which a clip is reconstructed, as `SceneInfo.settings` stores them.
        reconstruct_one: Reconstructs a clip into a folder, completely or not at all, and returns the number of frames.
        rank: Number of this process, from 0.
        num_processes: Number of processes.

    Returns:
        The outcome of each clip of this process.
    """
    outcomes = []
    for clip, folder in list(folders.items())[rank::num_processes]:
        frames = finished_frames(folder, settings_of(clip))
        if frames is not None:
            outcomes.append(ClipOutcome(str(clip), str(folder), frames, None, "done before"))
            continue
        started = time.perf_counter()
        try:
            frames = reconstruct_one(clip, folder)
        except UserError as error:
            reason = one_line(error)
            print(f"recon4d: {clip}: {reason}", file=sys.stderr, flush=True)
            outcomes.append(ClipOutcome(str(clip), str(folder), None, time.perf_counter() - started, "failed", reason))
        else:
            outcomes.append(ClipOutcome(str(clip), str(folder), frames, time.perf_counter() - started, "done"))
    return outcomes


def finished_frames(folder: Path, settings: Mapping[str, object]) -> int | None:
    """Return the number of frames of the result in a folder, if it is complete and has the given settings.

    Args:
        folder: An output folder, which may be missing or contain anything.
        settings: The settings that the result must have.

    Returns:
        The number of frames; None if there is no complete result or its settings differ.
    """
    if not (folder / SCENE_FILE_NAME).is_file() or not is_complete_result(folder):
        return None
    info = load_scene_info(folder)
    if info.settings != dict(settings) or info.source is None:
        return None
    return len(info.source.names)


def format_outcomes(outcomes: Sequence[ClipOutcome]) -> str:
    """Format outcomes as a table: clip, frames, seconds, and the folder or the reason of the failure.

    Args:
        outcomes: Outcomes of all clips.

    Returns:
        Lines of text, the first of which is the header.
    """
    rows = [("clip", "frames", "seconds", "result")]
    for outcome in outcomes:
        frames = "" if outcome.frames is None else str(outcome.frames)
        seconds = "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
        result = {
            "done": outcome.folder,
            "done before": f"{outcome.folder} (done before)",
            "failed": f"failed: {outcome.reason}",
        }
        rows.append((outcome.clip, frames, seconds, result[outcome.result]))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{clip:<{widths[0]}}  {frames:>{widths[1]}}  {seconds:>{widths[2]}}  {result}"
        for clip, frames, seconds, result in rows
    )


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _duplicates(names: Mapping[Path, str]) -> list[Path]:
    """Return the clips whose names are not unique."""
    counts = Counter(name.lower() for name in names.values())
    return [clip for clip, name in names.items() if counts[name.lower()] > 1]
