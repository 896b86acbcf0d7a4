"""Predict, then score: every method on every clip of a benchmark, resumable, over all the processes there are."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recon4d.datasets import Sample
from recon4d.errors import DataError
from recon4d.eval.benchmarks import Benchmark
from recon4d.eval.methods import Method, Request
from recon4d.eval.metrics.score import Score
from recon4d.eval.predictions import Prediction, PredictionStore
from recon4d.eval.report.clip_pictures import write_clip_picture
from recon4d.eval.scoring import ClipResult, score_prediction
from recon4d.io import atomic_file

if TYPE_CHECKING:
    from accelerate import PartialState


@dataclass(frozen=True)
class Evaluation:
    """The results of methods on clips, in the order of methods and clips, and clips whose truth cannot be read."""

    benchmark: Benchmark
    results: tuple[ClipResult, ...]
    unreadable: tuple[str, ...]
    """One line each, naming clip, file and reason."""


def processes() -> "PartialState":
    """The processes that share the work: those of `accelerate launch` or torchrun, or this one alone."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def evaluate(benchmark: Benchmark, methods: Sequence[Method], out: Path) -> Evaluation:
    """Every method on every clip; whatever is under `out` already and still holds is not computed again.

    Writes ``predictions/METHOD/CLIP/``, ``scores/METHOD/CLIP.json`` and ``pictures/METHOD/CLIP.jpg`` under `out`. Each
    process takes its share of the clips and all of them answer the whole. A clip whose truth cannot be read is named.
    """
    from tqdm import tqdm

    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise ValueError(f"methods {', '.join(names)} are not told apart by their names")
    state = processes()
    share = benchmark.clips[state.process_index :: state.num_processes]
    quiet = not sys.stderr.isatty() or not state.is_main_process
    for clip in tqdm(share, desc=benchmark.name, unit="clip", disable=quiet):
        try:
            sample = benchmark.read(clip)
        except DataError as error:
            _write_json(_scores_file(out, "unreadable", clip), str(error))
            continue
        _scores_file(out, "unreadable", clip).unlink(missing_ok=True)
        for method in methods:
            _evaluate_clip(method, clip, sample, benchmark, out)
    state.wait_for_everyone()
    return _gather(benchmark, names, out)


def _evaluate_clip(method: Method, clip: str, sample: Sample, benchmark: Benchmark, out: Path) -> None:
    prediction = _predict(method, clip, sample, PredictionStore(out / "predictions"))
    result = score_prediction(method.name, clip, prediction, sample.scene, benchmark, method.calibration)
    write_clip_picture(out / "pictures" / method.name / f"{clip}.jpg", sample, prediction)
    _write_json(_scores_file(out, method.name, clip), dataclasses.asdict(result))


def _predict(method: Method, clip: str, sample: Sample, store: PredictionStore) -> Prediction:
    """The stored prediction where it still holds, else a new one."""
    tracks = sample.scene.tracks
    anchors = (0,) if tracks is None else tuple(tracks.anchors.tolist())
    moving = sample.scene.dynamic
    is_told = bool(moving.isfinite().any()) and moving.shape[-2:] == sample.clip.size
    request = Request(clip, sample.clip, anchors, moving > 0.5 if is_told else None)
    if not method.is_computed:
        return method.predict(request)
    prediction = store.read(method.name, clip, method.key)
    if prediction is None:
        prediction = method.predict(request)
        store.write(method.name, clip, method.key, prediction, sample.clip.times)
    return prediction


def _gather(benchmark: Benchmark, methods: list[str], out: Path) -> Evaluation:
    unreadable = [clip for clip in benchmark.clips if _scores_file(out, "unreadable", clip).exists()]
    results = [
        _result(json.loads(_scores_file(out, method, clip).read_text()))
        for method in methods
        for clip in benchmark.clips
        if clip not in unreadable
    ]
    reasons = tuple(json.loads(_scores_file(out, "unreadable", clip).read_text()) for clip in unreadable)
    return Evaluation(benchmark, tuple(results), reasons)


def _result(stored: dict) -> ClipResult:
    return ClipResult(**{**stored, "scores": tuple(Score(**score) for score in stored["scores"])})


def _scores_file(out: Path, method: str, clip: str) -> Path:
    return out / "scores" / method / f"{clip}.json"


def _write_json(path: Path, value: object) -> None:
    """Whole or not at all; NaN and infinity as Python writes and reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1))
