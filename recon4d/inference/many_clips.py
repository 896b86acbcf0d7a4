"""Many clips, each to a folder of its own: shared over processes, gone on with after a stop, none in another's way."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recon4d.errors import one_line
from recon4d.io import load_scene_info


@dataclass(frozen=True)
class Outcome:
    """What became of one clip."""

    clip: str
    folder: str
    frames: int | None
    seconds: float | None
    result: Literal["done", "done before", "failed"]
    reason: str = ""
    """Why it failed, in one line."""


def output_folders(clips: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The folder under `out` for each clip, in the order given; a clip given twice counts once.

    Called like the clip without its ending (with it, where a neighbor differs in nothing else), and with as many of
    the folders it lies in as tell it from the others: a/clip.mp4 and b/clip.mp4 become a_clip and b_clip. Names that
    differ in case only are not told apart by every disk, and count as the same.
    """
    paths = {path: clip for clip in reversed(clips) for path in [clip.resolve()]}
    paths = dict(reversed(paths.items()))
    stems = Counter((path.parent, _stem(path).lower()) for path in paths)
    own = {path: _stem(path) if stems[path.parent, _stem(path).lower()] == 1 else path.name for path in paths}
    names = dict(own)
    for count in range(1, max((len(path.parts) for path in paths), default=0)):
        for path in _twice(names):
            names[path] = "_".join([*path.parts[1:-1][-count:], own[path]])
    for number, path in enumerate(_twice(names), start=1):
        names[path] = f"{names[path]}_{number}"
    return {clip: out / names[path] for path, clip in paths.items()}


def reconstruct_each(
    folders: Mapping[Path, Path],
    settings_of: Callable[[Path], Mapping[str, object]],
    reconstruct_one: Callable[[Path, Path], int],
    process: int = 0,
    num_processes: int = 1,
) -> list[Outcome]:
    """What became of this process's share of the clips: every `num_processes`-th of `folders`, from `process` on.

    ``reconstruct_one(clip, folder)`` writes the folder, whole or not at all, and answers the number of frames. A folder
    that holds a scene of the same settings is not written again. Whatever goes wrong with a clip is its outcome, a
    line on stderr, and no other clip's business.
    """
    outcomes = []
    for clip, folder in list(folders.items())[process::num_processes]:
        frames = finished_frames(folder, settings_of(clip))
        if frames is not None:
            outcomes.append(Outcome(str(clip), str(folder), frames, None, "done before"))
            continue
        started = time.perf_counter()
        try:
            frames = reconstruct_one(clip, folder)
        except Exception as error:  # a model or a decoder may raise anything, and the other clips are waiting
            reason = _reason(error)
            print(f"recon4d: {clip}: {reason}", file=sys.stderr, flush=True)
            outcomes.append(Outcome(str(clip), str(folder), None, time.perf_counter() - started, "failed", reason))
        else:
            outcomes.append(Outcome(str(clip), str(folder), frames, time.perf_counter() - started, "done"))
    return outcomes


def finished_frames(folder: Path, settings: Mapping[str, object]) -> int | None:
    """How many frames the finished scene in `folder` has; None where there is none, or one of other settings."""
    try:
        info = load_scene_info(folder)
    except (OSError, ValueError):
        return None
    if info.settings != dict(settings) or info.source is None:
        return None
    return len(info.source.names)


def table_of(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a table for people: clip, frames, seconds, and the folder or the reason."""
    rows = [("clip", "frames", "seconds", "result")]
    for one in outcomes:
        frames = "" if one.frames is None else str(one.frames)
        seconds = "" if one.seconds is None else f"{one.seconds:.1f}"
        result = {"done": one.folder, "done before": f"{one.folder} (done before)", "failed": f"failed: {one.reason}"}
        rows.append((one.clip, frames, seconds, result[one.result]))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{clip:<{widths[0]}}  {frames:>{widths[1]}}  {seconds:>{widths[2]}}  {result}"
        for clip, frames, seconds, result in rows
    )


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _twice(names: Mapping[Path, str]) -> list[Path]:
    counts = Counter(name.lower() for name in names.values())
    return [clip for clip, name in names.items() if counts[name.lower()] > 1]


def _reason(error: Exception) -> str:
    """One line, as the command line says it; defects of our own with their kind, so that they can be reported."""
    said, kind = one_line(error), type(error).__name__
    is_input = isinstance(error, (ValueError, OSError, MemoryError))
    return said if is_input or said == kind else f"{kind}: {said}"
