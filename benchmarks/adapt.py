"""What `recon4d adapt` does to the truth, which it never sees: ``python -m benchmarks.adapt --model mine.safetensors``.

Clips of worlds-v1, each with the same model before and after.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from recon4d.eval import (
    Benchmark,
    BenchmarkConfig,
    Prediction,
    load_benchmark,
    score_prediction,
)
from recon4d.inference import ReconstructConfig, reconstruct
from recon4d.models import Model
from recon4d.records import Scene
from recon4d.train.adaptation import adapt
from recon4d.train.adaptation_config import AdaptConfig
from recon4d.zoo import create_model, load_model

METRICS = ("abs_rel", "auc_30")


@dataclass(frozen=True)
class Arguments:
    """Adapt a model to clips with truth, one at a time."""

    model: str
    """A name of `recon4d models`, or a checkpoint file."""
    clips: int = 8
    split: str = "8"
    config: AdaptConfig = field(default_factory=AdaptConfig)


def main(arguments: Arguments) -> None:
    is_file = Path(arguments.model).is_file()
    model = load_model(arguments.model) if is_file else create_model(arguments.model)
    benchmark = load_benchmark("worlds-v1", BenchmarkConfig(split=arguments.split, clips=arguments.clips))
    print("clip      unmoved" + "".join(f"  {name:18}" for name in ("held-out error", *METRICS)) + "  kept")
    rows = [_adapted(model, name, benchmark, arguments.config) for name in benchmark.clips]
    print(_line("mean", "", torch.tensor(rows).nanmean(dim=0).tolist(), ""))


def _adapted(model: Model, name: str, benchmark: Benchmark, config: AdaptConfig) -> list[float]:
    """Print a clip's line; its held-out error and metrics, before and after in turn."""
    sample = benchmark.read(name)
    adaptation = adapt(model, sample.clip, config)
    first = reconstruct(
        model, sample.clip, ReconstructConfig(precision="float32", processing_size=config.processing_size)
    )
    after = adaptation.before if adaptation.after is None else adaptation.after
    values = [adaptation.before.total, after.total]
    for pair in zip(_scores(first, name, benchmark), _scores(adaptation.scene, name, benchmark), strict=True):
        values += pair
    print(_line(name, f"{adaptation.unmoved.total:.3f}", values, "yes" if adaptation.kept else "no"), flush=True)
    return values


def _scores(scene: Scene, name: str, benchmark: Benchmark) -> list[float]:
    truth = benchmark.read(name).scene
    prediction = Prediction.of_scene(scene.resized(*truth.size), seconds=0.0)
    result = score_prediction("adapt", name, prediction, truth, benchmark)
    scores = [result.score(metric) for metric in METRICS]
    return [float("nan") if score is None else score.value for score in scores]


def _line(name: str, unmoved: str, values: list[float], kept: str) -> str:
    pairs = [f"{values[i]:.3f} to {values[i + 1]:.3f}" for i in range(0, len(values), 2)]
    return f"{name:10}{unmoved:7}" + "".join(f"  {pair:18}" for pair in pairs) + f"  {kept}"


if __name__ == "__main__":
    main(tyro.cli(Arguments))
