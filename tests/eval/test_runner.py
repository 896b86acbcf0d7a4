"""The evaluation computes predictions once, counts failures, and reports everything that is skipped."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recon4d.datasets import Sample
from recon4d.errors import DataError, UserError
from recon4d.eval import Benchmark, ClipResult, Method, MethodConfig, Request, evaluate, make_method, summarize
from recon4d.eval.methods import StaticBaseline, StoredPredictions
from recon4d.inference import Processes
from recon4d.io import SceneInfo, save_scene
from recon4d.records import Scene


@pytest.fixture(scope="module")
def samples(samples: dict[str, Sample]) -> dict[str, Sample]:
    """Return the shared clips at half their size again, because most tests score all of them."""
    return {name: Sample(sample.clip.resized(24, 32), sample.scene.resized(24, 32)) for name, sample in samples.items()}


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
    return score.value


def test_a_prediction_is_computed_once(samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path) -> None:
    scenes = {name: sample.scene for name, sample in samples.items()}
    benchmark = replace(benchmark, clips=("world_00",))
    first = evaluate(benchmark, [FixedScenes(scenes)], tmp_path)
    again = FixedScenes({})
    second = evaluate(benchmark, [again], tmp_path)
    assert again.calls == []
    assert [result.scores for result in second.results] == [result.scores for result in first.results]
    other_settings = FixedScenes(scenes, key="2")
    evaluate(benchmark, [other_settings], tmp_path)
    assert other_settings.calls == list(benchmark.clips)


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
    benchmark = replace(benchmark, clips=("world_00", "world_01"))
    results = evaluate(benchmark, [FixedScenes({"world_00": samples["world_00"].scene})], tmp_path).results
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
    benchmark = replace(benchmark, clips=("world_01", "world_02"))
    evaluation = evaluate(replace(benchmark, read=read), [FixedScenes(scenes)], tmp_path)
    assert evaluation.unreadable == ("world_01: anno.npz: is missing",)
    assert [result.clip for result in evaluation.results] == ["world_02"]
    # Once the clip can be read, it is scored with the others.
    assert len(evaluate(benchmark, [FixedScenes(scenes)], tmp_path).results) == 2


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (("a", "b"), "none of the 2 clips of broken can be read: a: anno.npz: is missing"),
        (("a",), "the only clip of broken cannot be read: a: anno.npz: is missing"),
        ((), "benchmark broken has no clips; wanted at least one"),
    ],
)
def test_a_benchmark_without_a_readable_clip_is_an_error(clips: tuple[str, ...], message: str, tmp_path: Path) -> None:
    def read(name: str) -> Sample:
        raise DataError(name, "anno.npz", "is missing")

    with pytest.raises(UserError, match=message):
        evaluate(Benchmark("broken", "", clips, read), [make_method("static", MethodConfig())], tmp_path / "out")
    assert (tmp_path / "out").exists() == bool(clips)


def test_predictions_in_a_folder_are_found_by_clip_name(
    samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / "world_00").mkdir(parents=True)
    info = SceneInfo("m", True, "0", None, (24, 32), {})
    for name, path in (("world_00", folder / "world_00" / "scene.npz"), ("world_01", folder / "world_01.npz")):
        save_scene(path, samples[name].scene, samples[name].clip.times, info)
    method = make_method(str(folder), MethodConfig())
    assert isinstance(method, StoredPredictions)
    results = evaluate(benchmark, [method], tmp_path / "out").results
    assert [result.status for result in results] == ["ok", "ok", "failed"]
    assert "neither world_02/scene.npz nor world_02.npz" in results[2].reason
    assert math.isnan(value(results, "world_00", "seconds"))
    assert not (tmp_path / "out" / "predictions").exists()


def test_two_methods_of_one_name_are_refused(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different names"):
        evaluate(benchmark, [StaticBaseline(), StaticBaseline()], tmp_path)


class Raises(Method):
    """A method that raises an error for every clip."""

    name = key = "raises"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def predict_scene(self, request: Request) -> Scene:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("shapes do not match"), RuntimeError("no kernel"), KeyError("depths")])
def test_a_defect_of_a_method_surfaces(
    error: Exception, samples: dict[str, Sample], benchmark: Benchmark, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as raised:
        evaluate(benchmark, [Raises(error)], tmp_path)
    assert raised.value is error
    assert not list((tmp_path).rglob("prediction.json"))


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


def test_two_processes_give_the_results_of_one(benchmark: Benchmark, tmp_path: Path) -> None:
    """Each takes every other clip, and waits at the end in the group with the long timeout."""
    benchmark, written = replace(benchmark, clips=("world_00", "world_01")), []

    class InTurn(Processes):
        """The second process runs while the first one waits for it."""

        def wait(self) -> None:
            written.append({path.parent.name for path in (tmp_path / "two").rglob("prediction.json")})
            if self.rank == 0:
                evaluate(benchmark, [StaticBaseline()], tmp_path / "two", InTurn(1, 2, torch.device("cpu")))

    one = evaluate(benchmark, [StaticBaseline()], tmp_path / "one")
    two = evaluate(benchmark, [StaticBaseline()], tmp_path / "two", InTurn(0, 2, torch.device("cpu")))
    assert written == [{"world_00"}, {"world_00", "world_01"}]
    for result, other in zip(one.results, two.results, strict=True):
        wanted = {score.metric: score.value for score in result.scores if score.metric != "seconds"}
        found = {score.metric: score.value for score in other.scores if score.metric != "seconds"}
        assert found == pytest.approx(wanted, nan_ok=True)
