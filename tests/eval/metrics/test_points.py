"""Point-map metrics: cases by hand, NumPy and invariances."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from camera_scenes import without_frames
from optional_packages import needs_open3d
from point_scenes import with_known, with_noise
from scenes import make_scene
from scored import scores_by_name

from recon4d import geometry as g
from recon4d.eval.metrics import points
from recon4d.eval.metrics.point_clouds import normal_consistency
from recon4d.eval.metrics.points import (
    has_point_from_depth,
    median_distance_to_first_camera,
    point_scores,
    subsample_map,
)
from recon4d.eval.protocols.multiview_points import multiview_point_scores

SIM3 = g.similarity(
    torch.tensor(2.5), g.rotation_from_axis_angle(torch.tensor([0.4, -1.0, 0.3])), torch.tensor([3.0, -1.0, 7.0])
)


@needs_open3d
def test_point_maps_computed_by_hand() -> None:
    # A square is predicted as a rectangle of twice the height: Sim(3) leaves errors of 0.4 and 0.2 at each corner.
    truth = make_scene(1, metres_per_unit=1.0)
    known = torch.zeros(1, 12, 16, dtype=torch.bool)
    known[0, 0, :4] = True
    square = torch.tensor([[-1.0, -1, 8], [1, -1, 8], [1, 1, 8], [-1, 1, 8]])
    rectangle = torch.tensor([[-1.0, -2, 0], [1, -2, 0], [1, 2, 0], [-1, 2, 0]])
    true_points, points_ = truth.points.clone(), truth.points.clone()
    true_points[0, 0, :4], points_[0, 0, :4] = square, rectangle
    truth = with_known(dataclasses.replace(truth, points=true_points), known)
    prediction = with_known(dataclasses.replace(truth, points=points_), known)
    scores = scores_by_name(point_scores(prediction, truth))
    off = math.sqrt(0.4**2 + 0.2**2)
    for name in ("point_epe", "accuracy", "completeness", "chamfer"):
        assert scores[name].value == pytest.approx(off, abs=1e-6)
    assert scores["point_epe_relative"].value == pytest.approx(off / math.sqrt(66), abs=1e-6)
    assert scores["f_score"].value == 0
    assert scores["normal_consistency"].value == pytest.approx(1)
    assert (scores["point_epe"].count, scores["point_epe"].total) == (4, 4)


@needs_open3d
def test_point_map_scores_equal_numpy() -> None:
    truth = make_scene(2, metres_per_unit=2.0)
    prediction = with_noise(truth, 0.1).transformed(SIM3)
    scores = scores_by_name(point_scores(prediction, truth))
    p, q = prediction.points.reshape(-1, 3).double().numpy(), truth.points.reshape(-1, 3).double().numpy()
    u, d, vt = np.linalg.svd((q - q.mean(0)).T @ (p - p.mean(0)) / len(p))
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = np.trace(np.diag(d) @ sign) / ((p - p.mean(0)) ** 2).sum(1).mean()
    moved = scale * (p - p.mean(0)) @ (u @ sign @ vt).T + q.mean(0)
    error = np.linalg.norm(moved - q, axis=1).mean()
    every = np.linalg.norm(moved[:, None] - q, axis=-1)
    assert scores["point_epe"].value == pytest.approx(2 * error, rel=1e-4)
    distance = np.median(np.linalg.norm(q - truth.cameras.centers[0].numpy(), axis=1))
    assert scores["point_epe_relative"].value == pytest.approx(error / distance, rel=1e-4)
    assert scores["accuracy"].value == pytest.approx(2 * every.min(1).mean(), rel=1e-4)
    assert scores["completeness"].value == pytest.approx(2 * every.min(0).mean(), rel=1e-4)
    assert scores["chamfer"].value == pytest.approx(every.min(1).mean() + every.min(0).mean(), rel=1e-4)
    threshold = 0.05 * np.median(truth.depths.numpy())
    precision, recall = (every.min(1) < threshold).mean(), (every.min(0) < threshold).mean()
    assert 0.3 < precision < 1
    assert scores["f_score"].value == pytest.approx(2 * precision * recall / (precision + recall), rel=1e-3)
    expected = normal_consistency(torch.tensor(moved), torch.tensor(q)).mean
    assert scores["normal_consistency"].value == pytest.approx(expected, abs=1e-3)


def test_clouds_have_all_known_points_and_the_alignment_only_common_ones() -> None:
    truth = make_scene(2, metres_per_unit=1.0)
    known = torch.ones_like(truth.depths, dtype=torch.bool)
    known[:, :6] = False
    partly = with_known(truth, known)
    shifted = truth.points.clone()
    shifted[:, :6] += 1000
    prediction = dataclasses.replace(truth, points=shifted)
    scores = scores_by_name(point_scores(prediction, partly))
    assert scores["point_epe"].value == pytest.approx(0, abs=1e-4)
    assert (scores["point_epe"].count, scores["point_epe"].total) == (192, 192)
    assert scores["completeness"].value == pytest.approx(0, abs=1e-4)
    assert scores["accuracy"].value > 400
    assert scores["f_score"].value == pytest.approx(2 * 0.5 / 1.5)
    assert scores["accuracy"].count == 2 * scores["completeness"].count == 384
    # With the roles exchanged, the known points are exact and only completeness suffers.
    scores = scores_by_name(point_scores(partly, truth))
    assert scores["accuracy"].value == pytest.approx(0, abs=1e-4)
    assert scores["completeness"].value > 0.1
    assert (scores["point_epe"].count, scores["point_epe"].total) == (192, 384)


def test_clouds_are_subsampled_at_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = make_scene(3, metres_per_unit=1.0)
    known = torch.rand(truth.depths.shape, generator=torch.Generator().manual_seed(0)) > 0.01
    monkeypatch.setattr(points, "CLOUD_SIZE", 100)
    scores = scores_by_name(point_scores(with_known(truth, known), truth))
    assert scores["accuracy"].count == scores["completeness"].count == 100
    # The two clouds differ only at the unknown pixels.
    assert scores["accuracy"].value < 0.01
    assert scores["point_epe"].count == int(known.sum())
    cloud = subsample_map(truth.points, known)
    assert cloud.shape == (100, 3)
    assert cloud.dtype == torch.float64


def test_points_from_depth_have_their_own_alignment() -> None:
    truth = make_scene(3, metres_per_unit=1.0)
    confidence = torch.ones_like(truth.depths)
    confidence[0, 0] = 0
    depths = truth.depths.clone()
    depths[0, 0] = torch.nan
    prediction = dataclasses.replace(with_noise(truth, 0.5), depths=depths, depth_confidence=confidence)
    prediction = without_frames(prediction, 2).transformed(SIM3)
    known = has_point_from_depth(prediction)
    assert known.sum(dim=(-1, -2)).tolist() == [11 * 16, 12 * 16, 0]
    scores = scores_by_name(point_scores(prediction, truth))
    assert scores["points_from_depth_epe"].value == pytest.approx(0, abs=1e-4)
    assert scores["points_from_depth_epe"].count == 23 * 16
    assert scores["points_from_depth_epe"].total == 36 * 16
    assert scores["point_epe"].value > 0.1
    unknown = dataclasses.replace(truth, depth_confidence=torch.zeros_like(truth.depths))
    assert math.isnan(scores_by_name(point_scores(unknown, truth))["points_from_depth_epe"].value)
    assert scores_by_name(point_scores(unknown, truth))["point_epe"].value == pytest.approx(0, abs=1e-4)


def test_without_depth_the_distance_to_the_first_camera_is_the_unit_of_length() -> None:
    truth = make_scene(2, metres_per_unit=1.0)
    no_depth = dataclasses.replace(truth, depth_confidence=torch.zeros_like(truth.depths))
    prediction = with_noise(truth, 0.15)
    with_depth, without = (
        scores_by_name(point_scores(prediction, truth)),
        scores_by_name(point_scores(prediction, no_depth)),
    )
    assert with_depth["f_score"].value < without["f_score"].value < 1
    distance = median_distance_to_first_camera(truth)
    assert distance > float(truth.depths.median())
    expected = (truth.points - truth.cameras.centers[1]).norm(dim=-1).numpy()
    assert median_distance_to_first_camera(without_frames(truth, 0)) == pytest.approx(float(np.median(expected)))
    scores = scores_by_name(point_scores(prediction, without_frames(no_depth, 0, 1)))
    assert math.isnan(scores["f_score"].value)
    assert math.isnan(scores["point_epe_relative"].value)
    assert scores["point_epe"].value == pytest.approx(with_depth["point_epe"].value)


def test_without_common_points_only_the_f_score_is_defined() -> None:
    truth = make_scene(2)
    for count in (0, 2):
        known = torch.zeros_like(truth.depths, dtype=torch.bool)
        known[0, 0, :count] = True
        prediction = dataclasses.replace(with_known(truth, known), depth_confidence=torch.zeros_like(truth.depths))
        for metric, score in zip(point_scores.metrics, point_scores(prediction, truth), strict=True):
            assert score.metric == metric.name
            number = 0 if metric.name == "points_from_depth_epe" else count
            assert score.note == f"{number} points are known in both prediction and truth; at least 3 are needed"
            assert (score.count, score.total) == (0, 384)
            assert score.value == 0 if metric.name == "f_score" else math.isnan(score.value)
    known[0, 0, :3] = True
    assert scores_by_name(point_scores(with_known(truth, known), truth))["point_epe"].value == pytest.approx(
        0, abs=1e-4
    )


def test_a_truth_without_points_has_no_scores() -> None:
    scene = make_scene(2)
    truth = with_known(scene, torch.zeros_like(scene.depths, dtype=torch.bool))
    assert point_scores(scene, truth) == ()
    assert multiview_point_scores(scene, truth) == ()
