"""Motion head and matching on a frozen model: ``python -m benchmarks.motion_on_da3 --out out/motion``.

A demonstration for a CPU. A shrunk Depth Anything 3 (da3_tiny) is trained for cameras and depth on synthetic scenes and
frozen. Matching, dynamic mask and motion head (recon4d_da3_tiny) are trained on its tokens. The
tracks are scored on scenes that are never trained on, against the static baseline and against tracks that hold still:
those of the same network, whose points stay where they are in the anchor frame. Finished stages are not repeated.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
import tyro

from benchmarks.dynamic_tracks import with_static_tracks
from recon4d.datasets import Sample
from recon4d.datasets.synthetic import SyntheticConfig, make_scenes, render_scenes
from recon4d.eval import Benchmark, BenchmarkConfig, Prediction, load_benchmark, score_prediction
from recon4d.eval.alignment.similarity import align_scale
from recon4d.eval.baselines.static import static_scene
from recon4d.eval.metrics.track_pairs import track_pairs
from recon4d.eval.metrics.tracks import MEDIAN_DEPTH, is_dynamic_entry
from recon4d.eval.pairing import pair_with_truth
from recon4d.inference import reconstruct
from recon4d.models import SceneModel
from recon4d.records import Scene
from recon4d.train.checkpoints import latest_complete
from recon4d.train.config import DataConfig, LossWeights, OptimiserConfig, Shape, TrainConfig
from recon4d.train.loop import train
from recon4d.train.run_folder import CHECKPOINTS_NAME, LOG_NAME, begin_run
from recon4d.zoo import load_model

METRICS = ("moving_epe", "epe", "abs_rel", "auc_30", "visibility_accuracy", "moving_iou")
"""Columns of the table; moving_epe is pooled over the points of all clips, the others are means over clips."""
TERMS = ("motion", "match", "no_match", "match_position", "moving", "visibility")
"""Loss terms of the printed curve."""
CURVE_ROWS = 8
"""Number of rows of the printed curve; each is the mean of the steps since the row before."""


FLOW = "scene_flow_epe"
"""Column of the table: mean error of the displacement of moving points since the anchor frame, after the median scale
and in the unit of moving_epe. Errors of depth in the anchor frame do not enter it. Pooled over all points."""
HELD_STILL, NETWORK = "the network, held still", "the network"
"""Names of methods in the table."""
HELD_OUT_SEED = 20261130
"""Seed of the scenes that are scored."""
LEAST_CHANGE = 0.002
"""Smallest difference of moving_epe that counts as a change of a clip, in its unit."""
SMOOTHING = 5
"""Number of lines of the log over which the blue line of the picture is averaged."""


@dataclass(frozen=True)
class Arguments:
    """Train both stages and score them."""

    out: Path
    """Folder of the two runs."""
    base_steps: int = 900
    """Steps of cameras and depth, with `base_batch` clips each."""
    motion_steps: int = 1200
    """Steps of matching and motion, with `motion_batch` clips each."""
    base_batch: int = 8
    """Clips in a batch of the first stage."""
    motion_batch: int = 4
    """Clips in a batch of the second stage."""
    clips: int = 64
    """Number of held-out clips to score."""
    worlds: int = 16
    """Number of clips of worlds-v1 to score, which take longer."""
    shape: str = "4x98x126"
    """Shape of the training clips."""
    fast: bool = True
    """Compile the networks and the renderer, and train in bfloat16."""
    picture: Path | None = None
    """File for a picture of the loss curve (.svg or .png); needs matplotlib."""


def main(arguments: Arguments) -> None:
    """Train, print the loss curve of the second stage, and print the scores."""
    base = _train(_base_config(arguments), arguments.out / "base")
    config = _motion_config(arguments, base)
    model = _train(config, arguments.out / "motion")
    curve = _read_curve(arguments.out / "motion" / LOG_NAME)
    _print_curve(curve)
    if arguments.picture is not None:
        _draw_curve(curve, arguments.picture)
    network = load_model(model)
    _print_scores(network, _held_out(arguments))
    if arguments.worlds:
        _print_scores(network, load_benchmark("worlds-v1", BenchmarkConfig(split="8", clips=arguments.worlds)))


def _base_config(arguments: Arguments) -> TrainConfig:
    return TrainConfig(
        model="da3_tiny",
        steps=arguments.base_steps,
        warmup_steps=60,
        average=0.99,
        precision="bfloat16" if arguments.fast else "float32",
        compile=arguments.fast,
        validate_every=arguments.base_steps,
        save_every=200,
        data=DataConfig(shapes=(arguments.shape,), batch_size=arguments.base_batch),
        optimiser=OptimiserConfig(muon_rate=1e-3, adamw_rate=5e-4),
    )


def _motion_config(arguments: Arguments, base: Path) -> TrainConfig:
    config = _base_config(arguments)
    return replace(
        config,
        model="recon4d_da3_tiny",
        init=str(base),
        steps=arguments.motion_steps,
        validate_every=arguments.motion_steps,
        data=replace(config.data, batch_size=arguments.motion_batch),
        optimiser=OptimiserConfig(muon_rate=1e-3, adamw_rate=1e-3),
        # The dynamic mask decides which cells the alignment of lifted matches trusts.
        losses=LossWeights(moving=1.0),
    )


def _train(config: TrainConfig, folder: Path) -> Path:
    """Train a model, or continue or reuse the run in a folder; return the file of its averaged weights."""
    found = latest_complete(folder / CHECKPOINTS_NAME)
    if found is not None and found.step >= config.steps:
        return found.model_file
    if found is None:
        begin_run(folder, config)
    result = train(config, folder, found)
    if not result.is_finished:
        raise SystemExit(f"stopped at step {result.step} of {folder}; the same command continues")
    return result.checkpoint.model_file


def _read_curve(log: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if "motion" in line]


def _print_curve(curve: list[dict[str, float]]) -> None:
    print("mean of the loss terms of the second stage")
    print("steps up to" + "".join(f"{term:>16}" for term in TERMS))
    for number in range(CURVE_ROWS):
        first, stop = (len(curve) * edge // CURVE_ROWS for edge in (number, number + 1))
        if lines := curve[first:stop]:
            means = (fmean(line[term] for line in lines) for term in TERMS)
            print(f"{lines[-1]['step']:11.0f}" + "".join(f"{mean:16.3f}" for mean in means))


def _draw_curve(curve: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.4), layout="constrained")
    steps = [line["step"] for line in curve]
    for axes, term in zip(figure.subplots(1, 3), ("motion", "match", "moving"), strict=True):
        values = [line[term] for line in curve]
        smooth = [fmean(values[max(0, end - SMOOTHING) : end]) for end in range(1, len(values) + 1)]
        axes.plot(steps, values, color="0.75", linewidth=0.8)
        axes.plot(steps, smooth, color="tab:blue")
        axes.set(title=f"{term} loss", xlabel="step", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


def _held_out(arguments: Arguments) -> Benchmark:
    """Return scenes like those of the training, with a seed that no training uses."""
    shape = Shape.parse(arguments.shape)
    config = SyntheticConfig(shape.num_frames, shape.height, shape.width)

    def read(name: str) -> Sample:
        return render_scenes(make_scenes(config, HELD_OUT_SEED, [int(name)]), config)[0]

    return Benchmark("held-out scenes of the training", "", tuple(map(str, range(arguments.clips))), read)


def _print_scores(model: SceneModel, benchmark: Benchmark) -> None:
    found: dict[str, dict[str, list[tuple[float, int]]]] = {}
    oracle: list[tuple[float, int]] = []
    for name in benchmark.clips:
        sample = benchmark.read(name)
        clip = replace(sample.clip, priors=None)
        predicted = reconstruct(model, clip, precision="float32").resized(*clip.size)
        for method, scene in _methods(predicted, static_scene(clip, (0,))):
            result = score_prediction(method, name, Prediction.from_scene(scene, seconds=0.0), sample.scene, benchmark)
            found.setdefault(method, {}).setdefault(FLOW, []).append(_scene_flow_error(scene, sample.scene))
            for metric in (*METRICS, "static_oracle_moving_epe"):
                score = result.score(metric)
                if score is not None and not math.isnan(score.value):
                    rows = oracle if metric not in METRICS else found.setdefault(method, {}).setdefault(metric, [])
                    rows.append((score.value, score.count if metric not in METRICS[1:] else 1))
    print(f"\n{benchmark.name}: {len(benchmark.clips)} clips")
    columns = (FLOW, *METRICS)
    print(f"{'':26}" + "".join(f"{metric:>20}" for metric in columns))
    for method, metrics in found.items():
        print(f"{method:26}" + "".join(f"{_mean(metrics.get(metric, [])):20.3f}" for metric in columns))
    print(f"moving_epe of points that hold still at their true positions: {_mean(oracle):.3f}")
    for metric in (FLOW, "moving_epe"):
        rows = zip(found[NETWORK][metric], found[HELD_STILL][metric], strict=True)
        changes = [own[0] - still[0] for own, still in rows if own[1]]
        better, worse = (sum(sign * change > LEAST_CHANGE for change in changes) for sign in (-1, 1))
        print(f"{metric} of the network, against holding still: lower on {better} clips, higher on {worse}")


def _scene_flow_error(prediction: Scene, truth: Scene) -> tuple[float, int]:
    """Return the mean error of the displacement of moving points, and their number."""
    pairs = track_pairs(pair_with_truth(prediction, truth), truth)
    is_dynamic = is_dynamic_entry(pairs) & pairs.is_found
    if not is_dynamic.any():
        return 0.0, 0
    is_aligned = pairs.is_found & pairs.is_known
    scale = align_scale(pairs.predicted[is_aligned], pairs.true[is_aligned]).truth_from_prediction[0, 0]
    start = pairs.predicted[pairs.anchors, torch.arange(len(pairs.anchors))]
    error = scale * (pairs.predicted - start) - (pairs.true - pairs.true_at_anchor)
    unit = MEDIAN_DEPTH / truth.depths[truth.depth_confidence > 0].median()
    return float((unit * error.norm(dim=-1))[is_dynamic].double().mean()), int(is_dynamic.sum())


def _methods(predicted: Scene, static: Scene) -> Iterator[tuple[str, Scene]]:
    yield "static", static
    yield HELD_STILL, with_static_tracks(predicted)
    yield NETWORK, predicted


def _mean(values: list[tuple[float, int]]) -> float:
    """Average values by their counts."""
    return sum(value * count for value, count in values) / max(1, sum(count for _, count in values))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
