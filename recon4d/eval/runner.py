"""Evaluation of methods on a benchmark: predict, then score; resumable and shared by several processes."""

import dataclasses
import json
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recon4d.datasets import Sample
from recon4d.errors import DataError, UserError, os_errors_as_user_errors
from recon4d.eval.benchmarks import Benchmark
from recon4d.eval.methods import Method, Request
from recon4d.eval.metrics.score import Score
from recon4d.eval.predictions import Prediction, PredictionStore
from recon4d.eval.report.clip_pictures import write_clip_picture
from recon4d.eval.scoring import ClipResult, score_prediction
from recon4d.inference import Processes, start_processes
from recon4d.io import atomic_file

_SUBFOLDERS = ("predictions", "scores", "pictures")


@dataclass(frozen=True)
class Evaluation:
    """Results of methods on the clips of a benchmark."""

    benchmark: Benchmark
    """The evaluated benchmark."""
    results: tuple[ClipResult, ...]
    """One result for each method and readable clip: all clips of the first method, then of the second, and so on."""
    unreadable: tuple[str, ...]
    """One line for each clip whose ground truth cannot be read, with the clip, the file and the reason."""


def evaluate(
    benchmark: Benchmark, methods: Sequence[Method], out: Path, processes: Processes | None = None
) -> Evaluation:
    """Run methods on all clips of a benchmark and score their predictions.

    Writes ``predictions/METHOD/CLIP/``, ``scores/METHOD/CLIP.json`` and ``pictures/METHOD/CLIP.jpg``. Predictions that
    are stored under `out` and were made with the same settings, weights and code are not computed again. Clips whose
    ground truth cannot be read are skipped and listed.

    Args:
        benchmark: Clips with ground truth.
        methods: Methods with different names.
        out: Folder to write to; created if it is missing.
        processes: The processes that share the clips; None joins those of the launcher, if there is one. Every process
            must call this function.

    Returns:
        The results of all clips, in every process.

    Raises:
        UserError: If two methods have the same name, `out` cannot be written, or the benchmark has no clip whose
            ground truth can be read.
    """
    from tqdm import tqdm

    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise UserError(f"methods need different names, given {', '.join(names)}")
    if not benchmark.clips:
        raise UserError(f"benchmark {benchmark.name} has no clips; wanted at least one")
    _check_writable(out)
    processes = processes or start_processes()
    own_clips = benchmark.clips[processes.rank :: processes.count]
    is_quiet = not sys.stderr.isatty() or not processes.is_main
    for clip in tqdm(own_clips, desc=benchmark.name, unit="clip", disable=is_quiet):
        try:
            sample = benchmark.read(clip)
        except DataError as error:
            _write_json(_scores_file(out, "unreadable", clip), str(error))
            continue
        with os_errors_as_user_errors():
            _scores_file(out, "unreadable", clip).unlink(missing_ok=True)
        for method in methods:
            _evaluate_clip(method, clip, sample, benchmark, out)
    processes.wait()
    return _collect(benchmark, names, out)


def _check_writable(out: Path) -> None:
    """Refuse an output folder that cannot be written, before any work is done."""
    with os_errors_as_user_errors():
        out.mkdir(parents=True, exist_ok=True)
        for folder in (out, *(out / name for name in _SUBFOLDERS)):
            if folder == out or folder.exists():
                probe = folder / f".write-test-{secrets.token_hex(4)}"
                probe.touch()
                probe.unlink()


def _evaluate_clip(method: Method, clip: str, sample: Sample, benchmark: Benchmark, out: Path) -> None:
    prediction = _predict(method, clip, sample, PredictionStore(out / "predictions"))
    result = score_prediction(method.name, clip, prediction, sample.scene, benchmark, method.calibration)
    write_clip_picture(out / "pictures" / method.name / f"{clip}.jpg", sample, prediction)
    _write_json(_scores_file(out, method.name, clip), dataclasses.asdict(result))


def _predict(method: Method, clip: str, sample: Sample, store: PredictionStore) -> Prediction:
    """Return the stored prediction if it is up to date, else compute and store it."""
    tracks = sample.scene.tracks
    anchors = (0,) if tracks is None else tuple(tracks.anchors.tolist())
    dynamic = sample.scene.dynamic
    has_mask = bool(dynamic.isfinite().any()) and dynamic.shape[-2:] == sample.clip.size
    request = Request(clip, sample.clip, anchors, dynamic > 0.5 if has_mask else None)
    if not method.is_computed:
        return method.predict(request)
    prediction = store.read(method.name, clip, method.key)
    if prediction is None:
        prediction = method.predict(request)
        store.write(method.name, clip, method.key, prediction, sample.clip.times)
    return prediction


def _collect(benchmark: Benchmark, methods: list[str], out: Path) -> Evaluation:
    """Read the scores of all processes from their files."""
    unreadable = [clip for clip in benchmark.clips if _scores_file(out, "unreadable", clip).exists()]
    results = [
        _clip_result(json.loads(_scores_file(out, method, clip).read_text()))
        for method in methods
        for clip in benchmark.clips
        if clip not in unreadable
    ]
    if len(unreadable) == len(benchmark.clips):
        reason = json.loads(_scores_file(out, "unreadable", unreadable[0]).read_text())
        count = f"none of the {len(unreadable)} clips" if len(unreadable) > 1 else "the only clip"
        verb = "can" if len(unreadable) > 1 else "cannot"
        raise UserError(f"{count} of {benchmark.name} {verb} be read: {reason}")
    reasons = tuple(json.loads(_scores_file(out, "unreadable", clip).read_text()) for clip in unreadable)
    return Evaluation(benchmark, tuple(results), reasons)


def _clip_result(stored: dict) -> ClipResult:
    return ClipResult(**{**stored, "scores": tuple(Score(**score) for score in stored["scores"])})


def _scores_file(out: Path, method: str, clip: str) -> Path:
    return out / "scores" / method / f"{clip}.json"


def _write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically, with NaN and infinity as Python writes and reads them."""
    with os_errors_as_user_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.write_text(json.dumps(value, indent=1))
