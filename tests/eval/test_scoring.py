"""All metrics of one prediction: the truth is perfect, and a similarity changes nothing."""

from dataclasses import replace

import pytest
import torch
from camera_scenes import without_frames
from optional_packages import needs_open3d

from recon4d.datasets import Sample
from recon4d.eval import METRICS, Benchmark, Prediction, score_prediction
from recon4d.eval.calibration.reliability import MIN_ERROR
from recon4d.geometry import rotation_from_axis_angle, similarity
from recon4d.records import Calibration, ErrorCurve, Scene


@needs_open3d
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


def test_unregistered_frames_make_a_prediction_partial(samples: dict[str, Sample], benchmark: Benchmark) -> None:
    truth = samples["world_01"].scene
    prediction = Prediction.from_scene(without_frames(truth, 2, 5), 1.0)
    assert (prediction.status, prediction.reason) == ("partial", "2 of 8 frames are not registered")
    result = score_prediction("m", "world_01", prediction, truth, benchmark)
    found = {score.metric: score.value for score in result.scores}
    assert found["registered"] == pytest.approx(6 / 8)
    # 13 of 28 pairs contain one of the two unregistered frames.
    assert found["auc_30"] == pytest.approx(15 / 28)
    assert found["ate"] == pytest.approx(0, abs=1e-5)


def test_a_defect_of_a_metric_surfaces(
    samples: dict[str, Sample], benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(prediction: Scene, truth: Scene) -> None:
        raise ValueError("shapes do not match")

    truth = samples["world_00"].scene
    monkeypatch.setattr("recon4d.eval.scoring.pair_with_truth", broken)
    with pytest.raises(ValueError, match="shapes do not match"):
        score_prediction("m", "world_00", Prediction.from_scene(truth, 1.0), truth, benchmark)
