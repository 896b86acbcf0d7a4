"""What more views, a known lens and known cameras are worth: ``python -m benchmarks.inputs --model recon4d_mini``.

Clips of worlds-v1. The same network sees each clip as it is; one of its frames, as often as the clip has frames; and
the clip with its true intrinsics, without and with its true cameras. With ``--refine`` the answers are refined on the
clip.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import tyro

from recon4d.eval import (
    Benchmark,
    BenchmarkConfig,
    Prediction,
    load_benchmark,
    score_prediction,
)
from recon4d.inference import ReconstructConfig, reconstruct, reconstruct_and_match
from recon4d.models import Model
from recon4d.records import Clip, Priors, Scene
from recon4d.refine import refine_clip
from recon4d.zoo import create_model, load_model

CONFIG = ReconstructConfig(anchors=(), precision="float32")
Told = Literal["lens", "cameras", "copies"]
METRICS = ("abs_rel", "point_epe", "auc_30", "auc_5", "rotation_error", "fov_error")


@dataclass(frozen=True)
class Arguments:
    """Score one network on the same clips, told less or more."""

    model: str = "recon4d_mini"
    """A name of `recon4d models`, or a checkpoint file."""
    clips: int = 64
    split: str = "8"
    frame: int = 3
    """The one whose depth is compared between the whole clip and copies of this frame alone."""
    told: tuple[Told, ...] = ("lens", "cameras", "copies")
    """What to try beside the clip as it is."""
    refine: bool = False


def main(arguments: Arguments) -> None:
    is_file = Path(arguments.model).is_file()
    model = load_model(arguments.model) if is_file else create_model(arguments.model)
    benchmark = load_benchmark("worlds-v1", BenchmarkConfig(split=arguments.split, clips=arguments.clips))
    found: dict[str, list[list[float]]] = {}
    for name in benchmark.clips:
        answer = partial(_refined if arguments.refine else _answer, model)
        for way, values in _scores_of_clip(answer, benchmark, name, arguments):
            found.setdefault(way, []).append(values)

    told = " (refined)" if arguments.refine else ""
    print(f"{model.name}{told}, the first {len(benchmark.clips)} clips of worlds-v1, split {arguments.split}: means")
    print(f"{'told':34}" + "".join(f"{metric:>15}" for metric in METRICS))
    for way, rows in found.items():
        means = torch.tensor(rows).nanmean(dim=0).tolist()
        print(f"{way:34}" + "".join(f"{'-' if math.isnan(mean) else f'{mean:.3f}':>15}" for mean in means))


def _scores_of_clip(
    answer: Callable[[Clip], Scene], benchmark: Benchmark, name: str, arguments: Arguments
) -> Iterator[tuple[str, list[float]]]:
    """Each way of asking, and its metrics on one clip."""
    sample = benchmark.read(name)
    clip, truth = replace(sample.clip, priors=None), sample.scene
    whole = answer(clip)
    yield "the clip", _scores(whole, truth, benchmark, name)
    if "lens" in arguments.told:
        yield "the clip and its lens", _scores(answer(_told(clip, truth, False)), truth, benchmark, name)
    if "cameras" in arguments.told:
        yield "the clip, its lens and cameras", _scores(answer(_told(clip, truth, True)), truth, benchmark, name)
    if "copies" in arguments.told:
        frame = arguments.frame
        copies = answer(clip.frames([frame] * clip.num_frames))
        one = replace(truth, tracks=None).frames([frame])
        yield f"frame {frame} of the clip", _scores(whole.frames([frame]), one, benchmark, name)
        yield f"frame {frame}, {clip.num_frames} times", _scores(copies.frames([frame]), one, benchmark, name)


def _answer(model: Model, clip: Clip) -> Scene:
    return reconstruct(model, clip, CONFIG).resized(*clip.size)


def _refined(model: Model, clip: Clip) -> Scene:
    scene, matches = reconstruct_and_match(model, clip, CONFIG)
    return refine_clip(clip, scene, matches).scene.resized(*clip.size)


def _told(clip: Clip, truth: Scene, cameras: bool) -> Clip:
    known = replace(Priors.nothing(clip.num_frames), intrinsics=truth.cameras.intrinsics)
    return replace(clip, priors=replace(known, world_from_cam=truth.cameras.world_from_cam) if cameras else known)


def _scores(scene: Scene, truth: Scene, benchmark: Benchmark, name: str) -> list[float]:
    result = score_prediction("inputs", name, Prediction.of_scene(scene, seconds=0.0), truth, benchmark)
    scores = [result.score(metric) for metric in METRICS]
    return [math.nan if score is None else score.value for score in scores]


if __name__ == "__main__":
    main(tyro.cli(Arguments))
