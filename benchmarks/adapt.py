"""Effect of `recon4d adapt` on metrics against ground truth: ``python -m benchmarks.adapt --model mine.safetensors``.

Each clip of worlds-v1 is scored with the given model and with the model that was adapted to it without ground truth.
"""

from dataclasses import dataclass, field

import torch
import tyro

from recon4d.eval import (
    Benchmark,
    BenchmarkConfig,
    Prediction,
    load_benchmark,
    score_prediction,
)
from recon4d.inference import reconstruct
from recon4d.models import Model, require_trainable
from recon4d.records import Scene
from recon4d.train.adaptation import adapt
from recon4d.train.adaptation_config import AdaptConfig
from recon4d.zoo import find_model

METRICS = ("abs_rel", "auc_30")
"""Metrics of depth and camera poses that are shown."""


@dataclass(frozen=True)
class Arguments:
    """Adapt a model to clips with ground truth, one at a time."""

    model: str
    """Name of a model, as listed by `recon4d models`, or a checkpoint file."""
    clips: int = 8
    """Number of clips."""
    split: str = "8"
    """Split of worlds-v1: frames per clip."""
    config: AdaptConfig = field(default_factory=AdaptConfig)
    """Configuration of the adaptation."""


def main(arguments: Arguments) -> None:
    model = find_model(arguments.model, allow_untrained=True)
    benchmark = load_benchmark("worlds-v1", BenchmarkConfig(split=arguments.split, clips=arguments.clips))
    print("clip      no warp" + "".join(f"  {name:18}" for name in ("held-out error", *METRICS)) + "  kept")
    rows = [_adapt_to_clip(require_trainable(model), name, benchmark, arguments.config) for name in benchmark.clips]
    print(_line("mean", "", torch.tensor(rows).nanmean(dim=0).tolist(), ""))


def _adapt_to_clip(model: Model, name: str, benchmark: Benchmark, config: AdaptConfig) -> list[float]:
    """Adapt to a clip, print its line and return held-out error and metrics, each before and after."""
    sample = benchmark.read(name)
    adaptation = adapt(model, sample.clip, config)
    initial = reconstruct(model, sample.clip, precision="float32", processing_size=config.processing_size)
    after = adaptation.before if adaptation.after is None else adaptation.after
    values = [adaptation.before.total, after.total]
    for pair in zip(_scores(initial, name, benchmark), _scores(adaptation.scene, name, benchmark), strict=True):
        values += pair
    print(_line(name, f"{adaptation.baseline.total:.3f}", values, "yes" if adaptation.is_kept else "no"), flush=True)
    return values


def _scores(scene: Scene, name: str, benchmark: Benchmark) -> list[float]:
    truth = benchmark.read(name).scene
    prediction = Prediction.from_scene(scene.resized(*truth.size), seconds=0.0)
    result = score_prediction("adapt", name, prediction, truth, benchmark)
    scores = [result.score(metric) for metric in METRICS]
    return [float("nan") if score is None else score.value for score in scores]


def _line(name: str, baseline: str, values: list[float], kept: str) -> str:
    pairs = [f"{values[i]:.3f} to {values[i + 1]:.3f}" for i in range(0, len(values), 2)]
    return f"{name:10}{baseline:7}" + "".join(f"  {pair:18}" for pair in pairs) + f"  {kept}"


if __name__ == "__main__":
    main(tyro.cli(Arguments))
