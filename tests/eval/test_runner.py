"""Predict, then score: what is computed once, what counts as failed, and that nothing is left out in silence."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.cli.main import main
from recon4d.datasets import Sample
from recon4d.errors import DataError
from recon4d.eval import (
    METRICS,
    Benchmark,
    BenchmarkConfig,
    ClipResult,
    Method,
    MethodConfig,
    Prediction,
    PredictionStore,
    Request,
    benchmark_names,
    evaluate,
    load_benchmark,
    make_method,
    score_prediction,
    summarize,
)
from recon4d.eval.baselines.static import static_scene
from recon4d.eval.calibration.reliability import LEAST_ERROR
from recon4d.eval.isolation import CrashError, Isolated
from recon4d.eval.methods import MaskedColmap, StaticBaseline, Stored
from recon4d.eval.metrics.score import Score, undefined
from recon4d.eval.report.summary import bootstrap_interval
from recon4d.geometry import rotation_from_axis_angle, similarity
from recon4d.io import SceneInfo, load_scene, save_scene
from recon4d.records import Calibration, ErrorCurve, Scene

ROOT = Path(__file__).parents[2]


def small(sample: Sample) -> Sample:
    """The clip at a quarter of its size, with a handful of its tracks: metrics are quick."""
    scene = sample.scene
    tracks = scene.tracks
    assert tracks is not None
    some = torch.arange(0, tracks.pixels.shape[1], 97)
    tracks = replace(
        tracks,
        points=tracks.points[:, :, some],
        visibility=tracks.visibility[:, :, some],
        confidence=tracks.confidence[:, :, some],
        pixels=tracks.pixels[:, some],
    )
    return Sample(sample.clip.resized(48, 64), replace(scene, tracks=tracks).resized(48, 64))


@pytest.fixture(scope="module")
def samples() -> dict[str, Sample]:
    benchmark = load_benchmark("worlds-v1", BenchmarkConfig(clips=3))
    return {name: small(benchmark.read(name)) for name in benchmark.clips}


@pytest.fixture
def benchmark(samples: dict[str, Sample]) -> Benchmark:
    return Benchmark("small worlds", "", tuple(samples), samples.__getitem__)


class Answers(Method):
    """A method that answers what it is given, and counts how often it is asked."""

    def __init__(self, scenes: dict[str, Scene], name: str = "answers", key: str = "1") -> None:
        self.name, self.key = name, key
        self.scenes = scenes
        self.asked: list[str] = []

    def scene(self, request: Request) -> Scene:
        self.asked.append(request.name)
        if request.name not in self.scenes:
            raise ValueError("there is nothing\nto answer")
        return self.scenes[request.name]


def value(results: tuple[ClipResult, ...], clip: str, metric: str) -> float:
    (result,) = (result for result in results if result.clip == clip)
    score = result.score(metric)
    assert score is not None
    return score.value


def test_truth_itself_is_perfect_in_every_metric(samples: dict[str, Sample], benchmark: Benchmark) -> None:
    every_protocol = replace(benchmark, protocols=("video-depth", "worldtrack", "tapvid3d", "multiview-points"))
    truth = samples["world_01"].scene
    exact = ErrorCurve((1.0,), (LEAST_ERROR,))  # which expects no error of a confidence of 1, and is right
    sure = Calibration("truth", depth=exact, points=exact)
    result = score_prediction("truth", "world_01", Prediction.of_scene(truth, 1.0), truth, every_protocol, sure)
    assert {score.metric for score in result.scores} == set(METRICS)
    for score in result.scores:
        metric = METRICS[score.metric]
        if metric.name in ("seconds", "static_oracle_moving_epe"):
            continue
        wanted = {"higher": 1.0, "lower": 0.0}[metric.better]
        # Means of thousands of float32 distances; and normals that are fitted to neighbors.
        assert score.value == pytest.approx(wanted, abs=5e-3), score
        assert score.count <= score.total


def test_every_metric_of_ours_is_invariant_to_a_similarity_of_the_prediction(
    samples: dict[str, Sample], benchmark: Benchmark
) -> None:
    sample = samples["world_02"]
    generator = torch.Generator().manual_seed(0)
    noisy = replace(
        sample.scene,
        depths=sample.scene.depths * (1 + 0.1 * torch.rand(sample.scene.depths.shape, generator=generator)),
        points=sample.scene.points + 0.1 * torch.randn(sample.scene.points.shape, generator=generator),
    )
    turn = rotation_from_axis_angle(torch.tensor([0.3, -0.4, 0.2]))
    elsewhere = noisy.transformed(similarity(torch.tensor(2.5), turn, torch.tensor([1.0, -2.0, 3.0])))
    here, there = (
        score_prediction("m", "c", Prediction.of_scene(scene, 1.0), sample.scene, benchmark).scores
        for scene in (noisy, elsewhere)
    )
    for one, other in zip(here, there, strict=True):
        assert one.metric == other.metric
        assert one.value == pytest.approx(other.value, rel=2e-3, abs=2e-3, nan_ok=True), one
        assert one.count == other.count


def test_a_prediction_is_computed_once(samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path) -> None:
    scenes = {name: sample.scene for name, sample in samples.items()}
    first = evaluate(benchmark, [Answers(scenes)], tmp_path)
    again = Answers({})
    second = evaluate(benchmark, [again], tmp_path)
    assert again.asked == []
    assert [result.scores for result in second.results] == [result.scores for result in first.results]
    other_settings = Answers(scenes, key="2")
    evaluate(benchmark, [other_settings], tmp_path)
    assert other_settings.asked == list(benchmark.clips)


def test_half_written_and_damaged_predictions_are_computed_again(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    scenes = {name: sample.scene for name, sample in samples.items()}
    evaluate(benchmark, [Answers(scenes)], tmp_path)
    folder = tmp_path / "predictions" / "answers"
    (folder / "world_00" / "prediction.json").unlink()
    (folder / "world_02" / "scene.npz").write_bytes(b"PK\x03\x04 no archive")
    resumed = Answers(scenes)
    evaluate(benchmark, [resumed], tmp_path)
    assert resumed.asked == ["world_00", "world_02"]


def test_failures_count_at_their_worst(samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path) -> None:
    good = samples["world_00"].scene
    shorter = samples["world_01"].scene.frames(range(5))
    not_finite = replace(samples["world_02"].scene, depths=samples["world_02"].scene.depths * torch.nan)
    method = Answers({"world_00": good, "world_01": shorter, "world_02": not_finite})
    results = evaluate(benchmark, [method], tmp_path).results
    assert [result.status for result in results] == ["ok", "failed", "failed"]
    assert results[1].reason == "the prediction has 5 frames, the clip 8"
    assert "not finite" in results[2].reason
    for clip in ("world_01", "world_02"):
        for metric in ("auc_30", "delta_1", "registered", "depth_coverage", "apd3d", "visibility_accuracy"):
            assert value(results, clip, metric) == 0
        for metric in ("abs_rel", "epe", "ate"):
            assert math.isnan(value(results, clip, metric))

    summaries = {summary.metric.name: summary for summary in summarize(results)}
    assert summaries["auc_30"].value == pytest.approx(1 / 3, abs=1e-6)
    assert (summaries["auc_30"].num_clips, summaries["auc_30"].num_worst) == (3, 2)
    assert summaries["abs_rel"].value == pytest.approx(0, abs=1e-6)
    assert (summaries["abs_rel"].num_clips, summaries["abs_rel"].num_measured) == (3, 1)
    assert summaries["abs_rel"].count < summaries["abs_rel"].total


def test_what_a_method_cannot_answer_is_a_failure_with_its_reason(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    method = Answers({name: sample.scene for name, sample in samples.items() if name != "world_01"})
    results = evaluate(benchmark, [method], tmp_path).results
    assert (results[1].status, results[1].reason) == ("failed", "there is nothing to answer")
    stored = json.loads((tmp_path / "predictions" / "answers" / "world_01" / "prediction.json").read_text())
    assert stored["status"] == "failed"
    # A failure is an answer too: it is not tried again.
    again = Answers({name: sample.scene for name, sample in samples.items()})
    assert evaluate(benchmark, [again], tmp_path).results[1].status == "failed"
    assert again.asked == []


def test_a_clip_whose_truth_is_damaged_is_named_and_the_rest_is_scored(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    def read(name: str) -> Sample:
        if name == "world_01":
            raise DataError(name, "anno.npz", "is missing")
        return samples[name]

    scenes = {name: sample.scene for name, sample in samples.items()}
    evaluation = evaluate(replace(benchmark, read=read), [Answers(scenes)], tmp_path)
    assert evaluation.unreadable == ("world_01: anno.npz: is missing",)
    assert [result.clip for result in evaluation.results] == ["world_00", "world_02"]
    # Mended, it is scored with the others.
    assert len(evaluate(benchmark, [Answers(scenes)], tmp_path).results) == 3


def test_unplaced_frames_make_a_prediction_partial(samples: dict[str, Sample], benchmark: Benchmark) -> None:
    truth = samples["world_01"].scene
    world_from_cam = truth.cameras.world_from_cam.clone()
    world_from_cam[[2, 5]] = torch.nan
    prediction = Prediction.of_scene(replace(truth, cameras=replace(truth.cameras, world_from_cam=world_from_cam)), 1.0)
    assert (prediction.status, prediction.reason) == ("partial", "2 of 8 frames are not placed")
    result = score_prediction("m", "world_01", prediction, truth, benchmark)
    found = {score.metric: score.value for score in result.scores}
    assert found["registered"] == pytest.approx(6 / 8)
    # 13 of 28 pairs have one of the two lost frames.
    assert found["auc_30"] == pytest.approx(15 / 28)
    assert found["ate"] == pytest.approx(0, abs=1e-5)


def test_predictions_in_a_folder_are_found_by_their_clips(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / "world_00").mkdir(parents=True)
    info = SceneInfo("m", True, "0", None, (48, 64), {})
    for name, path in (("world_00", folder / "world_00" / "scene.npz"), ("world_01", folder / "world_01.npz")):
        save_scene(path, samples[name].scene, samples[name].clip.times, info)
    method = make_method(str(folder), MethodConfig())
    assert isinstance(method, Stored)
    results = evaluate(benchmark, [method], tmp_path / "out").results
    assert [result.status for result in results] == ["ok", "ok", "failed"]
    assert "neither world_02/scene.npz nor world_02.npz" in results[2].reason
    assert math.isnan(value(results, "world_00", "seconds"))
    assert not (tmp_path / "out" / "predictions").exists()


def test_the_static_answer_stands_still(samples: dict[str, Sample], benchmark: Benchmark) -> None:
    clip = samples["world_01"].clip
    scene = static_scene(clip, (0, 3))
    assert scene.tracks is not None
    torch.testing.assert_close(scene.points_from_depth, scene.points)
    torch.testing.assert_close(scene.tracks.points[1, 5], scene.points[3].flatten(0, 1))
    torch.testing.assert_close(scene.cameras.field_of_view(48, 64)[0, 0], torch.tensor(math.radians(60)))
    assert scene.tracks.anchors.tolist() == [0, 3]
    prediction = StaticBaseline().predict(Request("world_01", clip, (0,)))
    assert prediction.status == "ok"
    assert prediction.seconds > 0
    result = score_prediction("static", "world_01", prediction, samples["world_01"].scene, benchmark)
    found = {score.metric: score.value for score in result.scores}
    assert found["registered"] == 1
    assert found["auc_5"] < 0.2
    assert found["abs_rel"] > 0.1


def test_networks_answer_the_anchors_of_the_truth(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="untrained"):
        method = make_method("recon4d_tiny", MethodConfig(processing_size=48))
    one_clip = replace(benchmark, clips=("world_00",))
    (result,) = evaluate(one_clip, [method], tmp_path).results
    assert result.status == "ok"
    assert value((result,), "world_00", "visibility_accuracy") > 0
    stored = load_scene(tmp_path / "predictions" / "recon4d_tiny" / "world_00")
    assert stored.tracks is not None
    assert stored.tracks.anchors.tolist() == [0]


def test_a_clip_that_is_too_small_for_a_network_fails_alone(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    def read(name: str) -> Sample:
        sample = samples[name]
        return Sample(sample.clip.resized(16, 24), sample.scene.resized(16, 24)) if name == "world_00" else sample

    with pytest.warns(UserWarning, match="untrained"):
        method = make_method("recon4d_tiny", MethodConfig(processing_size=48))
    two_clips = replace(benchmark, clips=("world_00", "world_01"), read=read)
    results = evaluate(two_clips, [method], tmp_path).results
    assert [result.status for result in results] == ["failed", "ok"]
    assert "at least 32" in results[0].reason


def test_two_methods_of_one_name_are_refused(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not told apart"):
        evaluate(benchmark, [StaticBaseline(), StaticBaseline()], tmp_path)


def test_the_store_keeps_every_bit(samples: dict[str, Sample], tmp_path: Path) -> None:
    store = PredictionStore(tmp_path)
    sample = samples["world_00"]
    store.write("m", "a/b", "key", Prediction.of_scene(sample.scene, 1.5), sample.clip.times)
    found = store.read("m", "a/b", "key")
    assert found is not None
    assert found.scene is not None
    assert torch.equal(found.scene.depths, sample.scene.depths)
    assert found.seconds == 1.5
    store.write("m", "c", "key", Prediction(None, "timed out", math.nan, "slow"), sample.clip.times)
    found = store.read("m", "c", "key")
    assert found is not None
    assert (found.scene, found.status, found.reason) == (None, "timed out", "slow")
    assert math.isnan(found.seconds)


def result_of(clip: str, *scores: Score) -> ClipResult:
    return ClipResult("m", clip, 8, "ok", "", scores)


def test_a_summary_by_hand() -> None:
    """abs_rel is a mean over clips; moving_epe pools: (1 x 10 + 4 x 30) / 40; undefined clips weigh nothing."""
    results = [
        result_of("a", Score("abs_rel", 0.1, 50, 100, "median scale"), Score("moving_epe", 1.0, 10, 10)),
        result_of("b", Score("abs_rel", 0.3, 5, 100, "median scale"), Score("moving_epe", 4.0, 30, 30)),
        result_of("c", undefined("abs_rel", 100, "no depth"), undefined("moving_epe", 0, "nothing moves")),
    ]
    summaries = {summary.metric.name: summary for summary in summarize(results)}
    assert set(summaries) == {"abs_rel", "moving_epe"}
    assert summaries["abs_rel"].value == pytest.approx(0.2)
    assert summaries["moving_epe"].value == pytest.approx(3.25)
    assert (summaries["abs_rel"].num_clips, summaries["abs_rel"].num_measured) == (3, 2)
    assert (summaries["abs_rel"].count, summaries["abs_rel"].total) == (55, 300)
    assert summaries["abs_rel"].alignment == "median scale, none"
    assert summaries["abs_rel"].low == pytest.approx(0.1)
    assert summaries["abs_rel"].high == pytest.approx(0.3)


def test_failures_alone_make_no_mean() -> None:
    """A method without tracks does not score 0 for them because it failed on some clips; one that always fails does."""
    failed = Score("apd3d", 0.0, 0, 10, note="no prediction")
    answered = undefined("apd3d", 10, "no tracks were predicted")
    (sometimes,) = summarize([result_of("a", failed), result_of("b", answered)])
    assert math.isnan(sometimes.value)
    assert (sometimes.num_clips, sometimes.num_measured, sometimes.num_worst) == (2, 0, 0)
    (always,) = summarize([result_of("a", failed), result_of("b", failed)])
    assert (always.value, always.num_worst) == (0.0, 2)


def test_the_interval_is_that_of_a_resampled_mean() -> None:
    """For many clips it is about 1.96 standard errors on each side (the central limit theorem)."""
    random = np.random.default_rng(5)
    values: Float[np.ndarray, " n"] = random.normal(3.0, 1.0, 400)
    low, high = bootstrap_interval(values, np.ones(400))
    standard_error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.15 * standard_error)
    assert high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.15 * standard_error)
    assert bootstrap_interval(values, np.ones(400)) == (low, high)
    assert bootstrap_interval(np.full(9, 2.0), np.arange(1.0, 10.0)) == (2.0, 2.0)
    heavy = np.array([1.0] + 20 * [1e-9])
    assert bootstrap_interval(np.array([5.0] + 20 * [0.0]), heavy)[1] == pytest.approx(5.0, abs=1e-6)


def sleep_or_die(what: str, number: Tensor) -> float:
    """Runs in a process of its own."""
    if what == "sleep":
        time.sleep(30)
    if what == "die":
        os._exit(9)
    if what == "raise":
        raise ValueError("no such thing")
    return float(number) + 1


def test_another_process_answers_raises_is_stopped_and_may_die() -> None:
    call = Isolated(sleep_or_die, max_seconds=1.0)
    try:
        call.warm_up()
        assert call("answer", torch.tensor(1.0)) == 2.0
        with pytest.raises(ValueError, match="no such thing"):
            call("raise", torch.tensor(1.0))
        assert call("answer", torch.tensor(2.0)) == 3.0
        with pytest.raises(TimeoutError, match="longer than 1 seconds"):
            call("sleep", torch.tensor(1.0))
        assert call("answer", torch.tensor(3.0)) == 4.0
        with pytest.raises(CrashError, match="sleep_or_die died"):
            call("die", torch.tensor(1.0))
        assert call("answer", torch.tensor(4.0)) == 5.0
    finally:
        call.close()


def test_colmap_with_a_true_mask_is_told_what_moves(samples: dict[str, Sample]) -> None:
    method = make_method("colmap-true-mask", MethodConfig())
    try:
        clip = samples["world_02"].clip
        moving = torch.zeros(8, *clip.size, dtype=torch.bool)
        moving[:, :20] = True
        assert isinstance(method, MaskedColmap)
        told = method._clip(Request("world_02", clip, (0,), moving)).priors
        assert told is not None
        assert told.ignore is not None
        assert torch.equal(told.ignore, moving)
        ignored = method._clip(Request("world_02", replace(clip, priors=replace(told, ignore=~moving)), (0,), moving))
        assert ignored.priors is not None
        assert ignored.priors.ignore is not None
        assert ignored.priors.ignore.all()
        prediction = method.predict(Request("world_02", clip, (0,)))
        assert prediction.reason == "the truth of this clip does not tell what moves"
    finally:
        method.close()


def test_colmap_that_takes_too_long_is_counted_as_timed_out(samples: dict[str, Sample]) -> None:
    method = make_method("colmap", MethodConfig(max_seconds=0.01))
    try:
        prediction = method.predict(Request("world_00", samples["world_00"].clip, (0,)))
    finally:
        method.close()
    assert (prediction.scene, prediction.status) == (None, "timed out")


def test_benchmarks_take_the_frames_that_they_say(tmp_path: Path) -> None:
    config = BenchmarkConfig(data=ROOT / "examples" / "freiburg2_desk", num_frames=3, stride=2)
    desk = load_benchmark("tum", config)
    assert desk.clips == ("freiburg2_desk",)
    sample = desk.read("freiburg2_desk")
    assert sample.clip.source is not None
    assert sample.clip.source.numbers == (0, 2, 4)
    longer = load_benchmark("tum", replace(config, num_frames=90, stride=None)).read("freiburg2_desk")
    assert longer.clip.source is not None
    assert longer.clip.source.numbers == (0, 3, 6)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--benchmark", "nonsense", "--method", "static"], "unknown benchmark 'nonsense'; there are worlds-v1"),
        (["--method", "nonsense"], "unknown method 'nonsense'; there are static, colmap"),
        (["--method", "nothing.safetensors"], "checkpoint nothing.safetensors does not exist"),
        (["--split", "9", "--method", "static"], "worlds-v1 has the splits 8, 32, asked for '9'"),
        (["--stride", "2", "--method", "static"], "worlds-v1 is frozen and takes no stride"),
        (["--clips", "0", "--method", "static"], "clips = 0; wanted at least 1"),
        (["--benchmark", "tum", "--method", "static"], "benchmark tum needs --data"),
        (["--benchmark", "tum", "--data", "nowhere", "--method", "static"], "nowhere"),
        (["--benchmark", "tum", "--data", "DESK", "--split", "x", "--method", "static"], "tum has no splits"),
        (["--benchmark", "tum", "--data", "DESK", "--stride", "0", "--method", "static"], "wanted at least 1"),
    ],
)
def test_bad_commands_are_one_line(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(ROOT / "examples" / "freiburg2_desk") if word == "DESK" else word for word in arguments]
    assert main(["evaluate", "--out", str(tmp_path / "out"), *arguments]) == 2
    printed = capsys.readouterr().err.strip()
    assert complaint in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_every_benchmark_is_in_the_help_and_on_the_page() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for name in benchmark_names():
        assert f"`{name}`" in page


def test_two_processes_say_what_one_says(tmp_path: Path) -> None:
    """Each takes every other clip; the whole is the same but for seconds and the time stamp."""
    small = ["--benchmark", "worlds", "--clips", "2", "--num-frames", "2"]
    command = ["evaluate", *small, "--method", "static", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "recon4d.cli"]
    subprocess.run(
        [sys.executable, *launcher, *command, str(tmp_path / "two")],
        check=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    one, two = (json.loads((tmp_path / out / "report.json").read_text()) for out in ("one", "two"))
    assert one["clips"] == 2
    for report in (one, two):
        assert report["methods"]["static"].pop("seconds") > 0
    assert one["methods"] == two["methods"]
    assert (tmp_path / "two" / "report.html").stat().st_size > 10_000
