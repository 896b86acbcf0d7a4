"""The evaluation computes predictions once, counts failures, and reports everything that is skipped."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import recon4d
from recon4d.cli.main import main
from recon4d.datasets import Sample
from recon4d.errors import DataError, UserError
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
    predictions,
    score_prediction,
    summarize,
)
from recon4d.eval.baselines.static import static_scene
from recon4d.eval.calibration.reliability import MIN_ERROR
from recon4d.eval.isolation import CrashError, IsolatedFunction
from recon4d.eval.methods import MaskedColmap, StaticBaseline, StoredPredictions
from recon4d.eval.metrics.score import Score, undefined
from recon4d.eval.report.summary import bootstrap_interval
from recon4d.eval.source_digest import UNRELATED, digest_folder, source_digest
from recon4d.geometry import rotation_from_axis_angle, similarity
from recon4d.inference import Processes
from recon4d.io import SceneInfo, load_scene, save_scene
from recon4d.records import Calibration, ErrorCurve, Scene
from recon4d.refine import ColmapFailure
from recon4d.refine.no_solution import NoSolution

ROOT = Path(__file__).parents[2]


def small(sample: Sample) -> Sample:
    """Return the clip at a quarter of its size with a few of its tracks, so that metrics are fast."""
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


class FixedScenes(Method):
    """A method that returns given scenes and records the clips that it is called for."""

    def __init__(self, scenes: dict[str, Scene], name: str = "fixed", key: str = "1") -> None:
        self.name, self.key = name, key
        self.scenes = scenes
        self.calls: list[str] = []

    def predict_scene(self, request: Request) -> Scene:
        self.calls.append(request.clip_name)
        if request.clip_name not in self.scenes:
            raise UserError("this clip has\nno scene")
        return self.scenes[request.clip_name]


def value(results: tuple[ClipResult, ...], clip: str, metric: str) -> float:
    (result,) = (result for result in results if result.clip == clip)
    score = result.score(metric)
    assert score is not None
    return score.value


def test_truth_itself_is_perfect_in_every_metric(samples: dict[str, Sample], benchmark: Benchmark) -> None:
    every_protocol = replace(benchmark, protocols=("video-depth", "worldtrack", "tapvid3d", "multiview-points"))
    truth = samples["world_01"].scene
    exact = ErrorCurve((1.0,), (MIN_ERROR,))  # the expected error of a confidence of 1 is the smallest one
    sure = Calibration("truth", depth=exact, points=exact)
    result = score_prediction("truth", "world_01", Prediction.from_scene(truth, 1.0), truth, every_protocol, sure)
    assert {score.metric for score in result.scores} == set(METRICS)
    for score in result.scores:
        metric = METRICS[score.metric]
        if metric.name in ("seconds", "static_oracle_moving_epe"):
            continue
        wanted = {"higher": 1.0, "lower": 0.0}[metric.better]
        # Tolerance for means of thousands of float32 distances, and for normals fitted to neighbors.
        assert score.value == pytest.approx(wanted, abs=5e-3), score
        assert score.count <= score.total


def test_own_metrics_are_invariant_to_a_similarity_of_the_prediction(
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
        score_prediction("m", "c", Prediction.from_scene(scene, 1.0), sample.scene, benchmark).scores
        for scene in (noisy, elsewhere)
    )
    for one, other in zip(here, there, strict=True):
        assert one.metric == other.metric
        assert one.value == pytest.approx(other.value, rel=2e-3, abs=2e-3, nan_ok=True), one
        assert one.count == other.count


def test_a_prediction_is_computed_once(samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path) -> None:
    scenes = {name: sample.scene for name, sample in samples.items()}
    first = evaluate(benchmark, [FixedScenes(scenes)], tmp_path)
    again = FixedScenes({})
    second = evaluate(benchmark, [again], tmp_path)
    assert again.calls == []
    assert [result.scores for result in second.results] == [result.scores for result in first.results]
    other_settings = FixedScenes(scenes, key="2")
    evaluate(benchmark, [other_settings], tmp_path)
    assert other_settings.calls == list(benchmark.clips)


def test_incomplete_and_damaged_predictions_are_computed_again(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    scenes = {name: sample.scene for name, sample in samples.items()}
    evaluate(benchmark, [FixedScenes(scenes)], tmp_path)
    folder = tmp_path / "predictions" / "fixed"
    (folder / "world_00" / "prediction.json").unlink()
    (folder / "world_02" / "scene.npz").write_bytes(b"PK\x03\x04 no archive")
    resumed = FixedScenes(scenes)
    evaluate(benchmark, [resumed], tmp_path)
    assert resumed.calls == ["world_00", "world_02"]


def test_failures_count_at_their_worst(samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path) -> None:
    good = samples["world_00"].scene
    shorter = samples["world_01"].scene.frames(range(5))
    not_finite = replace(samples["world_02"].scene, depths=samples["world_02"].scene.depths * torch.nan)
    method = FixedScenes({"world_00": good, "world_01": shorter, "world_02": not_finite})
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


def test_a_user_error_of_a_method_is_a_failed_prediction_with_its_reason(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    method = FixedScenes({name: sample.scene for name, sample in samples.items() if name != "world_01"})
    results = evaluate(benchmark, [method], tmp_path).results
    assert (results[1].status, results[1].reason) == ("failed", "this clip has no scene")
    stored = json.loads((tmp_path / "predictions" / "fixed" / "world_01" / "prediction.json").read_text())
    assert stored["status"] == "failed"
    # A failure is stored too and not tried again.
    again = FixedScenes({name: sample.scene for name, sample in samples.items()})
    assert evaluate(benchmark, [again], tmp_path).results[1].status == "failed"
    assert again.calls == []


def test_a_clip_whose_truth_is_damaged_is_named_and_the_rest_is_scored(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    def read(name: str) -> Sample:
        if name == "world_01":
            raise DataError(name, "anno.npz", "is missing")
        return samples[name]

    scenes = {name: sample.scene for name, sample in samples.items()}
    evaluation = evaluate(replace(benchmark, read=read), [FixedScenes(scenes)], tmp_path)
    assert evaluation.unreadable == ("world_01: anno.npz: is missing",)
    assert [result.clip for result in evaluation.results] == ["world_00", "world_02"]
    # Once the clip can be read, it is scored with the others.
    assert len(evaluate(benchmark, [FixedScenes(scenes)], tmp_path).results) == 3


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (("a", "b"), "none of the 2 clips of broken can be read: a: anno.npz: is missing"),
        (("a",), "the only clip of broken cannot be read: a: anno.npz: is missing"),
        ((), "benchmark broken has no clips"),
    ],
)
def test_a_benchmark_without_a_readable_clip_is_an_error(clips: tuple[str, ...], message: str, tmp_path: Path) -> None:
    def read(name: str) -> Sample:
        raise DataError(name, "anno.npz", "is missing")

    with pytest.raises(UserError, match=message):
        evaluate(Benchmark("broken", "", clips, read), [make_method("static", MethodConfig())], tmp_path / "out")


def test_unregistered_frames_make_a_prediction_partial(samples: dict[str, Sample], benchmark: Benchmark) -> None:
    truth = samples["world_01"].scene
    world_from_cam = truth.cameras.world_from_cam.clone()
    world_from_cam[[2, 5]] = torch.nan
    prediction = Prediction.from_scene(
        replace(truth, cameras=replace(truth.cameras, world_from_cam=world_from_cam)), 1.0
    )
    assert (prediction.status, prediction.reason) == ("partial", "2 of 8 frames are not registered")
    result = score_prediction("m", "world_01", prediction, truth, benchmark)
    found = {score.metric: score.value for score in result.scores}
    assert found["registered"] == pytest.approx(6 / 8)
    # 13 of 28 pairs contain one of the two unregistered frames.
    assert found["auc_30"] == pytest.approx(15 / 28)
    assert found["ate"] == pytest.approx(0, abs=1e-5)


def test_predictions_in_a_folder_are_found_by_clip_name(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / "world_00").mkdir(parents=True)
    info = SceneInfo("m", True, "0", None, (48, 64), {})
    for name, path in (("world_00", folder / "world_00" / "scene.npz"), ("world_01", folder / "world_01.npz")):
        save_scene(path, samples[name].scene, samples[name].clip.times, info)
    method = make_method(str(folder), MethodConfig())
    assert isinstance(method, StoredPredictions)
    results = evaluate(benchmark, [method], tmp_path / "out").results
    assert [result.status for result in results] == ["ok", "ok", "failed"]
    assert "neither world_02/scene.npz nor world_02.npz" in results[2].reason
    assert math.isnan(value(results, "world_00", "seconds"))
    assert not (tmp_path / "out" / "predictions").exists()


def test_the_static_baseline_is_static(samples: dict[str, Sample], benchmark: Benchmark) -> None:
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


def test_networks_predict_the_tracks_of_the_true_anchors(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="no trained weights"):
        method = make_method("recon4d_tiny", MethodConfig(processing_size=48))
    one_clip = replace(benchmark, clips=("world_00",))
    (result,) = evaluate(one_clip, [method], tmp_path).results
    assert result.status == "ok"
    assert value((result,), "world_00", "visibility_accuracy") > 0
    stored = load_scene(tmp_path / "predictions" / "recon4d_tiny" / "world_00")
    assert stored.tracks is not None
    assert stored.tracks.anchors.tolist() == [0]


def test_a_clip_that_is_too_small_for_a_network_does_not_affect_others(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    def read(name: str) -> Sample:
        sample = samples[name]
        return Sample(sample.clip.resized(16, 24), sample.scene.resized(16, 24)) if name == "world_00" else sample

    with pytest.warns(UserWarning, match="no trained weights"):
        method = make_method("recon4d_tiny", MethodConfig(processing_size=48))
    two_clips = replace(benchmark, clips=("world_00", "world_01"), read=read)
    results = evaluate(two_clips, [method], tmp_path).results
    assert [result.status for result in results] == ["failed", "ok"]
    assert "at least 32" in results[0].reason


def test_two_methods_of_one_name_are_refused(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different names"):
        evaluate(benchmark, [StaticBaseline(), StaticBaseline()], tmp_path)


def test_the_store_is_lossless(samples: dict[str, Sample], tmp_path: Path) -> None:
    store = PredictionStore(tmp_path)
    sample = samples["world_00"]
    store.write("m", "a/b", "key", Prediction.from_scene(sample.scene, 1.5), sample.clip.times)
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
    """abs_rel is a mean over clips; moving_epe is pooled: (1 x 10 + 4 x 30) / 40; undefined clips are skipped."""
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
    """A method without tracks has no track score, even if some clips failed; one that always fails scores 0."""
    failed = Score("apd3d", 0.0, 0, 10, note="no prediction")
    without_tracks = undefined("apd3d", 10, "no tracks were predicted")
    (sometimes,) = summarize([result_of("a", failed), result_of("b", without_tracks)])
    assert math.isnan(sometimes.value)
    assert (sometimes.num_clips, sometimes.num_measured, sometimes.num_worst) == (2, 0, 0)
    (always,) = summarize([result_of("a", failed), result_of("b", failed)])
    assert (always.value, always.num_worst) == (0.0, 2)


def test_the_interval_is_that_of_a_resampled_mean() -> None:
    """For many clips, the interval is about 1.96 standard errors on each side (central limit theorem)."""
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


class UnpicklableError(Exception):
    """Its constructor needs two arguments, which pickling does not keep."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def misbehave(how: str, number: Tensor) -> object:
    """Run in a worker process: return, raise, take too long or die."""
    if how == "sleep":
        time.sleep(30)
    if how == "die":
        os._exit(9)
    if how == "die later":
        threading.Timer(0.2, os._exit, [9]).start()
    if how == "raise":
        raise ValueError("no such thing")
    if how == "data error":
        raise DataError("clip", "depth.png", "is damaged")
    if how == "unpicklable error":
        raise UnpicklableError("two", "words")
    if how == "unpicklable value":
        return lambda: None
    return float(number) + 1


@pytest.fixture
def call() -> Iterator[IsolatedFunction]:
    function = IsolatedFunction(misbehave, max_seconds=1.0)
    function.warm_up()
    yield function
    function.close()


def test_an_isolated_function_returns_raises_times_out_and_survives_a_crash(call: IsolatedFunction) -> None:
    assert call("return", torch.tensor(1.0)) == 2.0
    with pytest.raises(ValueError, match="no such thing"):
        call("raise", torch.tensor(1.0))
    assert call("return", torch.tensor(2.0)) == 3.0
    with pytest.raises(TimeoutError, match="longer than 1 seconds"):
        call("sleep", torch.tensor(1.0))
    assert call("return", torch.tensor(3.0)) == 4.0
    with pytest.raises(CrashError, match=r"the process of misbehave died \(exit code 9\)"):
        call("die", torch.tensor(1.0))
    assert call("return", torch.tensor(4.0)) == 5.0


def test_a_worker_that_died_between_calls_is_replaced(call: IsolatedFunction) -> None:
    call("die later", torch.tensor(1.0))
    time.sleep(0.7)
    assert call("return", torch.tensor(1.0)) == 2.0


class DiesOnArrival:
    """A function whose process dies while it starts."""

    __name__ = "dies_on_arrival"

    def __call__(self) -> None:
        raise AssertionError("the process never gets here")

    def __reduce__(self) -> tuple:
        return os._exit, (3,)


def test_a_worker_that_dies_while_it_starts_is_a_crash() -> None:
    call = IsolatedFunction(DiesOnArrival(), max_seconds=20.0)
    with pytest.raises(CrashError, match=r"dies_on_arrival died \(exit code 3\)"):
        call()


def test_an_error_of_a_worker_has_its_traceback(call: IsolatedFunction) -> None:
    with pytest.raises(ValueError, match="no such thing") as raised:
        call("raise", torch.tensor(1.0))
    (note,) = raised.value.__notes__
    assert 'raise ValueError("no such thing")' in note


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("data error", UserError, "clip: depth.png: is damaged"),
        ("unpicklable error", RuntimeError, "UnpicklableError: two words"),
        ("unpicklable value", Exception, "lambda"),
    ],
)
def test_what_cannot_be_pickled_is_reported_with_a_traceback(
    call: IsolatedFunction, how: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as raised:
        call(how, torch.tensor(1.0))
    assert "Traceback" in raised.value.__notes__[0]
    assert call("return", torch.tensor(1.0)) == 2.0


class Isolated(Method):
    """A method that runs in a worker process."""

    name = key = "isolated"

    def __init__(self, how: str) -> None:
        self.how = how
        self.call = IsolatedFunction(misbehave, max_seconds=10.0)

    def predict_scene(self, request: Request) -> Scene:
        return self.call(self.how, torch.tensor(1.0))

    def close(self) -> None:
        self.call.close()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("die", "the process of misbehave died (exit code 9)"),
        ("data error", "clip: depth.png: is damaged"),
    ],
)
def test_crashes_and_user_errors_of_a_worker_are_failed_predictions(
    how: str, reason: str, samples: dict[str, Sample]
) -> None:
    method = Isolated(how)
    try:
        prediction = method.predict(Request("world_00", samples["world_00"].clip, (0,)))
    finally:
        method.close()
    assert (prediction.scene, prediction.status, prediction.reason) == (None, "failed", reason)


def test_a_defect_in_a_worker_surfaces_with_its_traceback(samples: dict[str, Sample]) -> None:
    method = Isolated("raise")
    try:
        with pytest.raises(ValueError, match="no such thing") as raised:
            method.predict(Request("world_00", samples["world_00"].clip, (0,)))
    finally:
        method.close()
    assert "in misbehave" in raised.value.__notes__[0]


class Raises(Method):
    """A method that raises an error for every clip."""

    name = key = "raises"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def predict_scene(self, request: Request) -> Scene:
        raise self.error


@pytest.mark.parametrize(
    "error", [UserError("small"), NoSolution("no parallax"), ColmapFailure("no model"), CrashError("died")]
)
def test_a_method_without_a_result_is_a_failed_prediction(error: Exception, samples: dict[str, Sample]) -> None:
    prediction = Raises(error).predict(Request("world_00", samples["world_00"].clip, (0,)))
    assert (prediction.scene, prediction.status, prediction.reason) == (None, "failed", str(error))


@pytest.mark.parametrize("error", [ValueError("shapes do not match"), RuntimeError("no kernel"), KeyError("depths")])
def test_a_defect_of_a_method_surfaces(
    error: Exception, samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as raised:
        evaluate(benchmark, [Raises(error)], tmp_path)
    assert raised.value is error
    assert not list((tmp_path).rglob("prediction.json"))


def test_a_defect_of_a_metric_surfaces(
    samples: dict[str, Sample], benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(prediction: Scene, truth: Scene) -> None:
        raise ValueError("shapes do not match")

    truth = samples["world_00"].scene
    monkeypatch.setattr("recon4d.eval.scoring.pair_with_truth", broken)
    with pytest.raises(ValueError, match="shapes do not match"):
        score_prediction("m", "world_00", Prediction.from_scene(truth, 1.0), truth, benchmark)


def test_predictions_of_other_code_are_computed_again(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = {name: sample.scene for name, sample in samples.items()}
    evaluate(benchmark, [FixedScenes(scenes)], tmp_path)
    stored = json.loads((tmp_path / "predictions" / "fixed" / "world_00" / "prediction.json").read_text())
    assert recon4d.__version__ in stored["key"]
    assert source_digest() in stored["key"]
    for name, changed in (("source_digest", lambda: "other"), ("__version__", "0.0.0")):
        again = FixedScenes(scenes)
        monkeypatch.setattr(predictions, name, changed)
        evaluate(benchmark, [again], tmp_path)
        assert again.calls == list(benchmark.clips)


def test_the_digest_covers_code_that_can_change_a_prediction(tmp_path: Path) -> None:
    files = {"models/network.py": "a", "cli/main.py": "b", "eval/report/page.py": "c", "eval/methods.py": "d"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    digest = digest_folder(tmp_path)
    assert digest_folder(tmp_path) == digest
    for name, is_covered in zip(files, (True, False, False, True), strict=True):
        (tmp_path / name).write_text("changed")
        assert (digest_folder(tmp_path) != digest) == is_covered
        (tmp_path / name).write_text(files[name])
    (tmp_path / "models" / "network.py").rename(tmp_path / "models" / "other.py")
    assert digest_folder(tmp_path) != digest
    assert len(source_digest()) == 64
    for folder in UNRELATED:
        assert (Path(recon4d.__path__[0]) / folder).is_dir()


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff\xfe", b'{"key": "1"}', b'{"key": 1, "status": "ok", "seconds": 1.0, "reason": ""}'],
)
def test_damaged_records_are_no_predictions(content: bytes, samples: dict[str, Sample], tmp_path: Path) -> None:
    store, sample = PredictionStore(tmp_path), samples["world_00"]
    store.write("m", "c", "key", Prediction.from_scene(sample.scene, 1.5), sample.clip.times)
    assert store.read("m", "c", "key") is not None
    (tmp_path / "m" / "c" / "prediction.json").write_bytes(content)
    assert store.read("m", "c", "key") is None


def test_a_defect_while_a_prediction_is_read_surfaces(
    samples: dict[str, Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> Scene:
        raise ValueError("shapes do not match")

    store, sample = PredictionStore(tmp_path), samples["world_00"]
    store.write("m", "c", "key", Prediction.from_scene(sample.scene, 1.5), sample.clip.times)
    monkeypatch.setattr(predictions, "load_scene", broken)
    with pytest.raises(ValueError, match="shapes do not match"):
        store.read("m", "c", "key")


@pytest.mark.parametrize("folder", ["", "sub", "predictions"])
def test_an_output_folder_that_cannot_be_written_is_refused_before_any_work(
    folder: str, samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is a file, lies in a file, or has a read-only subfolder (simulated, because root may write)."""
    touch = Path.touch

    def refuse(path: Path, *arguments: object) -> None:
        if path.parent.name == "predictions":
            raise PermissionError(13, "Permission denied", str(path))
        touch(path)

    monkeypatch.setattr(Path, "touch", refuse)
    out = tmp_path / "out"
    if folder == "predictions":
        (out / folder).mkdir(parents=True)
    else:
        out.write_text("a file")
        out = out / folder
    method = FixedScenes({name: sample.scene for name, sample in samples.items()})
    with pytest.raises(UserError, match="out"):
        evaluate(benchmark, [method], out)
    assert method.calls == []


def test_a_writable_output_folder_is_left_clean(benchmark: Benchmark, tmp_path: Path) -> None:
    for _ in range(2):  # the folders exist the second time, and are tried too
        evaluate(replace(benchmark, clips=("world_00",)), [StaticBaseline()], tmp_path / "out")
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions", "scores", "pictures"}
        assert not list((tmp_path / "out").rglob(".write-test-*"))


def test_a_benchmark_without_clips_is_an_error(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="small worlds has no clips; wanted at least one"):
        evaluate(replace(benchmark, clips=()), [StaticBaseline()], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_processes_wait_in_the_group_with_the_long_timeout(benchmark: Benchmark, tmp_path: Path) -> None:
    """The given processes define the clips of this rank and the wait at the end."""
    waits = []

    class Recorded(Processes):
        def wait(self) -> None:
            waits.append(self.rank)

    one_clip = replace(benchmark, clips=("world_00",))
    evaluate(one_clip, [StaticBaseline()], tmp_path, Recorded(0, 2, torch.device("cpu")))
    assert waits == [0]
    evaluate(one_clip, [StaticBaseline()], tmp_path, Recorded(1, 2, torch.device("cpu")))
    assert waits == [0, 1]


def test_colmap_with_a_true_mask_ignores_dynamic_pixels(samples: dict[str, Sample]) -> None:
    method = make_method("colmap-true-mask", MethodConfig())
    try:
        clip = samples["world_02"].clip
        dynamic = torch.zeros(8, *clip.size, dtype=torch.bool)
        dynamic[:, :20] = True
        assert isinstance(method, MaskedColmap)
        priors = method._clip(Request("world_02", clip, (0,), dynamic)).priors
        assert priors is not None
        assert priors.ignore is not None
        assert torch.equal(priors.ignore, dynamic)
        ignored = method._clip(
            Request("world_02", replace(clip, priors=replace(priors, ignore=~dynamic)), (0,), dynamic)
        )
        assert ignored.priors is not None
        assert ignored.priors.ignore is not None
        assert ignored.priors.ignore.all()
        prediction = method.predict(Request("world_02", clip, (0,)))
        assert prediction.reason == "the truth of this clip does not say which pixels are dynamic"
    finally:
        method.close()


def test_colmap_that_takes_too_long_is_counted_as_timed_out(samples: dict[str, Sample]) -> None:
    method = make_method("colmap", MethodConfig(max_seconds=0.01))
    try:
        prediction = method.predict(Request("world_00", samples["world_00"].clip, (0,)))
    finally:
        method.close()
    assert (prediction.scene, prediction.status) == (None, "timed out")


def test_benchmarks_use_the_configured_frames(tmp_path: Path) -> None:
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
    ("arguments", "message"),
    [
        (["--benchmark", "nonsense", "--method", "static"], "unknown benchmark 'nonsense'; available are worlds-v1"),
        (["--method", "nonsense"], "unknown method 'nonsense'; available are static, colmap"),
        (["--method", "nothing.safetensors"], "checkpoint nothing.safetensors does not exist"),
        (["--split", "9", "--method", "static"], "worlds-v1 has the splits 8, 32, given '9'"),
        (["--stride", "2", "--method", "static"], "worlds-v1 is frozen and takes no stride"),
        (["--clips", "0", "--method", "static"], "clips = 0; wanted at least 1"),
        (["--benchmark", "tum", "--method", "static"], "benchmark tum needs the folder of its data set"),
        (["--benchmark", "tum", "--data", "nowhere", "--method", "static"], "nowhere"),
        (["--benchmark", "tum", "--data", "DESK", "--split", "x", "--method", "static"], "tum has no splits"),
        (["--benchmark", "tum", "--data", "DESK", "--stride", "0", "--method", "static"], "wanted at least 1"),
    ],
)
def test_bad_commands_print_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(ROOT / "examples" / "freiburg2_desk") if word == "DESK" else word for word in arguments]
    assert main(["evaluate", "--out", str(tmp_path / "out"), *arguments]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_every_benchmark_is_documented() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for name in benchmark_names():
        assert f"`{name}`" in page


def test_two_processes_give_the_results_of_one(tmp_path: Path) -> None:
    """Each process takes every other clip; results are the same except for times."""
    small = ["--benchmark", "worlds", "--clips", "2", "--num-frames", "2"]
    command = ["evaluate", *small, "--method", "static", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "recon4d.cli"]
    ended = subprocess.run(
        [sys.executable, *launcher, *command, str(tmp_path / "two")],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    one, two = (json.loads((tmp_path / out / "report.json").read_text()) for out in ("one", "two"))
    assert one["clips"] == 2
    for report in (one, two):
        assert report["methods"]["static"].pop("seconds") > 0
    assert one["methods"] == two["methods"]
    assert (tmp_path / "two" / "report.html").stat().st_size > 10_000
