"""Value of more views, given intrinsics and given cameras: ``python -m benchmarks.inputs --model recon4d_mini``.

The same network reconstructs each clip of worlds-v1 as it is; copies of one of its frames; and the clip with its true
intrinsics, without and with its true cameras. With ``--refine`` the results are refined.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
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
from recon4d.inference import ReconstructConfig, predict_scene, reconstruct_and_match
from recon4d.models import SceneModel
from recon4d.records import Clip, Priors, Scene
from recon4d.refine import refine_clip
from recon4d.zoo import find_model

CONFIG = ReconstructConfig(anchors=(), precision="float32")
"""Settings of the single pass."""
Input = Literal["lens", "cameras", "copies"]
"""Input to compare with the clip alone."""
METRICS = ("abs_rel", "point_epe", "auc_30", "auc_5", "rotation_error", "fov_error")
"""Metrics to print."""


@dataclass(frozen=True)
class Arguments:
    """Score one network on the same clips with different inputs."""

    model: str = "recon4d_mini"
    """Name of a model, or a checkpoint file."""
    clips: int = 64
    """Largest number of clips."""
    split: str = "8"
    """Split of worlds-v1."""
    frame: int = 3
    """Frame whose depth is compared between the whole clip and copies of the frame."""
    told: tuple[Input, ...] = ("lens", "cameras", "copies")
    """Inputs to compare with the clip alone: its intrinsics (lens), its intrinsics and cameras, copies of one frame."""
    refine: bool = False
    """Whether to refine the results."""


def main(arguments: Arguments) -> None:
    """Print the mean metrics for each input."""
    model = find_model(arguments.model, allow_untrained=True)
    benchmark = load_benchmark("worlds-v1", BenchmarkConfig(split=arguments.split, clips=arguments.clips))
    found: dict[str, list[list[float]]] = {}
    for name in benchmark.clips:
        reconstruct_clip = partial(_refine if arguments.refine else _reconstruct, model)
        for name_of_input, values in _scores_of_clip(reconstruct_clip, benchmark, name, arguments):
            found.setdefault(name_of_input, []).append(values)

    suffix = " (refined)" if arguments.refine else ""
    print(f"{model.name}{suffix}, the first {len(benchmark.clips)} clips of worlds-v1, split {arguments.split}: means")
    print(f"{'input':34}" + "".join(f"{metric:>15}" for metric in METRICS))
    for name_of_input, rows in found.items():
        means = torch.tensor(rows).nanmean(dim=0).tolist()
        print(f"{name_of_input:34}" + "".join(f"{'-' if math.isnan(mean) else f'{mean:.3f}':>15}" for mean in means))


def _scores_of_clip(
    reconstruct_clip: Callable[[Clip], Scene], benchmark: Benchmark, name: str, arguments: Arguments
) -> Iterator[tuple[str, list[float]]]:
    """Yield the name of each input and its metrics on one clip."""
    sample = benchmark.read(name)
    clip, truth = replace(sample.clip, priors=None), sample.scene
    whole = reconstruct_clip(clip)
    yield "the clip", _scores(whole, truth, benchmark, name)
    if "lens" in arguments.told:
        yield (
            "the clip and its lens",
            _scores(reconstruct_clip(_with_priors(clip, truth, False)), truth, benchmark, name),
        )
    if "cameras" in arguments.told:
        yield (
            "the clip, its lens and cameras",
            _scores(reconstruct_clip(_with_priors(clip, truth, True)), truth, benchmark, name),
        )
    if "copies" in arguments.told:
        frame = arguments.frame
        copies = reconstruct_clip(clip.frames([frame] * clip.num_frames))
        one = replace(truth, tracks=None).frames([frame])
        yield f"frame {frame} of the clip", _scores(whole.frames([frame]), one, benchmark, name)
        yield f"frame {frame}, {clip.num_frames} times", _scores(copies.frames([frame]), one, benchmark, name)


def _reconstruct(model: SceneModel, clip: Clip) -> Scene:
    return predict_scene(model, clip, CONFIG).resized(*clip.size)


def _refine(model: SceneModel, clip: Clip) -> Scene:
    scene, matches = reconstruct_and_match(model, clip, CONFIG)
    return refine_clip(clip, scene, matches).scene.resized(*clip.size)


def _with_priors(clip: Clip, truth: Scene, with_cameras: bool) -> Clip:
    priors = replace(Priors.unknown(clip.num_frames), intrinsics=truth.cameras.intrinsics)
    if with_cameras:
        priors = replace(priors, world_from_cam=truth.cameras.world_from_cam)
    return replace(clip, priors=priors)


def _scores(scene: Scene, truth: Scene, benchmark: Benchmark, name: str) -> list[float]:
    result = score_prediction("inputs", name, Prediction.from_scene(scene, seconds=0.0), truth, benchmark)
    scores = [result.score(metric) for metric in METRICS]
    return [math.nan if score is None else score.value for score in scores]


if __name__ == "__main__":
    main(tyro.cli(Arguments))
