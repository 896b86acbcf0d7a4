"""Tests of point map and point cloud metrics, ICP and the multi-view protocol: hand-computed cases, naive loops and
published formulas."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import make_scene
from scored import scores_by_name
from torch import Tensor

from recon4d import geometry as g
from recon4d.eval.metrics import points
from recon4d.eval.metrics.point_clouds import (
    accuracy_and_completeness,
    align_icp,
    chamfer,
    f_score,
    nearest_distances,
    nearest_neighbors,
    normal_consistency,
    normals,
    subsample,
)
from recon4d.eval.metrics.points import (
    POINT_METRICS,
    has_point_from_depth,
    median_distance_to_first_camera,
    point_scores,
    subsample_map,
)
from recon4d.eval.protocols import multiview_points
from recon4d.eval.protocols.multiview_points import (
    MULTIVIEW_POINT_METRICS,
    is_in_center,
    multiview_point_scores,
    shift_and_scale,
)
from recon4d.records import Scene
from recon4d.refine.no_solution import NoSolution

SIM3 = g.similarity(
    torch.tensor(2.5), g.rotation_from_axis_angle(torch.tensor([0.4, -1.0, 0.3])), torch.tensor([3.0, -1.0, 7.0])
)


def noise(shape: tuple[int, ...], size: float, seed: int) -> Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_noise(scene: Scene, size: float, seed: int = 0) -> Scene:
    return dataclasses.replace(scene, points=scene.points + noise(tuple(scene.points.shape), size, seed))


def with_known(scene: Scene, known: Tensor) -> Scene:
    """Return the scene with points only at known pixels; all others are NaN."""
    unknown = torch.where(known[..., None], scene.points, torch.nan)
    return dataclasses.replace(scene, points=unknown, point_confidence=known.float())


def curved(frames: int = 2, seed: int = 0) -> Scene:
    """Create a scene with a wavy surface, for which the alignment of point clouds is unique. Depths are unchanged."""
    scene = make_scene(frames, metres_per_unit=1.0)
    points = scene.points.clone()
    points[..., 2] += 0.2 * torch.sin(3 * points[..., 0]) * torch.cos(4 * points[..., 1] + seed)
    return dataclasses.replace(scene, points=points)


# --- clouds ------------------------------------------------------------------------------------------------------


def test_cloud_distances_computed_by_hand() -> None:
    predicted = torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]])
    true = torch.tensor([[0.0, 0, 0], [1, 1, 0]])
    assert nearest_distances(predicted, true).tolist() == pytest.approx([0, 1, math.sqrt(17)])
    assert nearest_neighbors(predicted[[0, 2]], true)[1].tolist() == [0, 1]
    distances = accuracy_and_completeness(predicted, true)
    assert distances.accuracy == pytest.approx((1 + math.sqrt(17)) / 3)
    assert distances.accuracy_median == pytest.approx(1)
    assert distances.completeness == distances.completeness_median == pytest.approx(0.5)
    assert distances.chamfer == chamfer(predicted, true) == pytest.approx(((1 + math.sqrt(17)) / 3 + 0.5) / 2)
    # Closer than 1: one of three, one of two. Closer than 1.01: two of three, both.
    assert f_score(predicted, true, 1.0) == pytest.approx(2 * (1 / 3) * (1 / 2) / (5 / 6))
    assert f_score(predicted, true, 1.01) == pytest.approx(2 * (2 / 3) / (5 / 3))
    assert f_score(predicted, true + 100, 1.0) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30))
def test_distances_equal_those_over_all_pairs(seed: int, n: int, m: int) -> None:
    a, b = noise((n, 3), 1, seed).double(), noise((m, 3), 1, seed + 1).double()
    every = (a[:, None] - b).norm(dim=-1)
    distances = accuracy_and_completeness(a, b)
    torch.testing.assert_close(nearest_distances(a, b), every.amin(1))
    assert distances.accuracy == pytest.approx(float(every.amin(1).mean()))
    assert distances.completeness == pytest.approx(float(every.amin(0).mean()))
    assert distances.accuracy_median == pytest.approx(float(np.median(every.amin(1))))
    assert distances.completeness_median == pytest.approx(float(np.median(every.amin(0))))
    precision, recall = float((every.amin(1) < 0.5).double().mean()), float((every.amin(0) < 0.5).double().mean())
    expected = 0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
    assert f_score(a, b, 0.5) == pytest.approx(expected)
    assert f_score(a, b, 0.5) == pytest.approx(f_score(b, a, 0.5))
    assert chamfer(a, b) == pytest.approx(chamfer(b, a))


def test_results_of_empty_clouds() -> None:
    some, empty = torch.zeros(2, 3), torch.zeros(0, 3)
    for a, b in ((some, empty), (empty, some), (empty, empty)):
        distances = accuracy_and_completeness(a, b)
        assert distances.accuracy == distances.completeness == distances.chamfer == math.inf
        assert distances.accuracy_median == distances.completeness_median == math.inf
        assert f_score(a, b, 1.0) == 0
        assert math.isnan(normal_consistency(a, b).mean)
        assert math.isnan(normal_consistency(a, b).of_truth_median)
    assert nearest_distances(some, empty).tolist() == [math.inf] * 2
    assert nearest_distances(empty, some).tolist() == []
    assert normals(empty).shape == (0, 3)


def test_results_of_single_points() -> None:
    one = torch.tensor([[1.0, 2, 3]])
    assert accuracy_and_completeness(one, one + 1).chamfer == pytest.approx(math.sqrt(3))
    assert normals(one).tolist() == [[0, 0, 1]]
    assert normal_consistency(one, one).mean == 1


def test_subsampling_keeps_the_same_pixels_of_two_maps_without_duplicates() -> None:
    cloud = torch.arange(300.0).reshape(100, 3)
    few = subsample(cloud, 10, seed=3)
    assert few.shape == (10, 3)
    assert len(few.unique(dim=0)) == 10
    assert (few % 3 == torch.arange(3)).all()
    assert torch.equal(few, subsample(cloud, 10, seed=3))
    assert not torch.equal(few, subsample(cloud, 10, seed=4))
    assert torch.equal(subsample(cloud, 1000, seed=3).sort(dim=0).values, cloud)
    known = torch.ones(100, dtype=torch.bool)
    known[few[4, 0].int() // 3] = False
    partly = subsample(cloud, 10, seed=3, is_known=known)
    assert torch.equal(partly[:9], torch.cat([few[:4], few[5:]]))
    assert subsample(cloud, 10, 3, torch.zeros(100, dtype=torch.bool)).shape == (0, 3)
    with pytest.raises(ValueError, match="count must be at least 1"):
        subsample(cloud, 0, seed=3)


def test_normals_of_a_plane() -> None:
    flat = noise((200, 3), 1, 0)
    flat[:, 2] = 0.5 * flat[:, 0]
    expected = torch.tensor([-0.5, 0, 1], dtype=torch.float64) / math.sqrt(1.25)
    torch.testing.assert_close((normals(flat) @ expected).abs(), torch.ones(200, dtype=torch.float64))


def test_normals_are_the_direction_of_least_variance_of_the_thirty_nearest_points() -> None:
    cloud = noise((80, 3), 1, 1).double()
    nearest = (cloud[:, None] - cloud).norm(dim=-1).argsort(dim=-1)[:, :30]
    for i in range(80):
        around = cloud[nearest[i]].numpy()
        least = np.linalg.eigh(np.cov(around.T))[1][:, 0]
        assert abs(float(normals(cloud)[i] @ torch.tensor(least))) == pytest.approx(1, abs=1e-6)


def test_normal_consistency_of_planes_is_the_cosine_between_them() -> None:
    # A plane, and the same plane rotated by 60 degrees.
    flat = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    flat[:, 2] = 0
    rotated = flat @ g.rotation_from_axis_angle(torch.tensor([math.radians(60), 0, 0])).T
    assert normal_consistency(flat, flat).mean == pytest.approx(1)
    consistency = normal_consistency(rotated, flat)
    for cosine in dataclasses.astuple(consistency):
        assert cosine == pytest.approx(0.5, abs=1e-5)
    assert normal_consistency(rotated, rotated + torch.tensor([0.0, 0, 1])).mean == pytest.approx(1)


def test_normal_consistency_averages_over_each_cloud() -> None:
    a, b = noise((60, 3), 1, 2).double(), noise((90, 3), 1, 3).double()
    every = (a[:, None] - b).norm(dim=-1)
    cosines = (normals(a) @ normals(b).T).abs()
    over_a = cosines[torch.arange(60), every.argmin(1)].numpy()
    over_b = cosines[every.argmin(0), torch.arange(90)].numpy()
    found = normal_consistency(a, b)
    assert found.of_prediction == pytest.approx(over_a.mean())
    assert found.of_prediction_median == pytest.approx(np.median(over_a))
    assert found.of_truth == pytest.approx(over_b.mean())
    assert found.of_truth_median == pytest.approx(np.median(over_b))
    assert found.mean == pytest.approx((over_a.mean() + over_b.mean()) / 2)


def test_icp_recovers_a_transform(capfd: pytest.CaptureFixture[str]) -> None:
    true = curved().points.reshape(-1, 3)
    moved_from_true = g.rigid(
        g.rotation_from_axis_angle(torch.tensor([0.01, -0.01, 0.02])), torch.tensor([0.02, 0, -0.01])
    )
    alignment = align_icp(g.transform_points(moved_from_true, true), true, 0.3, torch.eye(4))
    torch.testing.assert_close(alignment.truth_from_prediction, g.invert(moved_from_true).double(), atol=1e-4, rtol=0)
    assert alignment.name == "ICP"
    assert alignment.count == len(true)
    assert capfd.readouterr() == ("", "")


def test_icp_uses_the_initial_transform_and_the_largest_distance() -> None:
    true = curved().points.reshape(-1, 3)
    away = g.rigid(torch.eye(3), torch.tensor([50.0, 0, 0]))
    there = align_icp(g.transform_points(away, true), true, 0.1, g.invert(away))
    torch.testing.assert_close(there.truth_from_prediction, g.invert(away).double(), atol=1e-4, rtol=0)
    nothing = align_icp(g.transform_points(away, true), true, 0.1, torch.eye(4))
    assert torch.equal(nothing.truth_from_prediction, torch.eye(4, dtype=torch.float64))
    assert nothing.count == 0


def test_icp_of_few_points_returns_the_initial_transform(capfd: pytest.CaptureFixture[str]) -> None:
    start = g.rigid(torch.eye(3), torch.tensor([1.0, 2, 3]))
    for n, m in ((0, 5), (5, 0), (2, 5), (5, 2)):
        alignment = align_icp(noise((n, 3), 1, 0), noise((m, 3), 1, 1), 10.0, start)
        assert torch.equal(alignment.truth_from_prediction, start.double())
        assert alignment.count == 0
    assert align_icp(noise((3, 3), 1, 0), noise((3, 3), 1, 1), 10.0, start).count == 3
    assert capfd.readouterr() == ("", "")
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="max_distance of ICP"):
            align_icp(noise((5, 3), 1, 0), noise((5, 3), 1, 1), wrong, start)


# --- point maps --------------------------------------------------------------------------------------------------


def test_truth_against_itself_is_perfect_in_any_world_frame() -> None:
    truth = make_scene(3, metres_per_unit=1.0)
    for prediction in (truth, truth.transformed(SIM3)):
        for metric, score in zip(POINT_METRICS, point_scores(prediction, truth), strict=True):
            assert score.metric == metric.name
            assert score.value == pytest.approx(1 if metric.better == "higher" else 0, abs=1e-4)
            assert score.total == 3 * 12 * 16
            assert score.alignment == "sim3"
            assert not score.note


def test_worst_values() -> None:
    worst = {metric.name: metric.worst for metric in POINT_METRICS}
    assert worst.pop("f_score") == 0
    assert set(worst.values()) == {None}
    assert {metric.worst for metric in MULTIVIEW_POINT_METRICS} == {None}


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


def test_point_scores_are_invariant_to_a_similarity_of_the_prediction_and_scale_with_the_truth() -> None:
    truth = make_scene(2)
    prediction = with_noise(truth, 0.1)
    for metric, before, moved, larger in zip(
        POINT_METRICS,
        point_scores(prediction, truth),
        point_scores(prediction.transformed(SIM3), truth),
        point_scores(prediction, truth.transformed(SIM3)),
        strict=True,
    ):
        assert moved.value == pytest.approx(before.value, rel=1e-3, abs=1e-4)
        assert larger.value == pytest.approx(before.value * (2.5 if metric.unit == "m" else 1), rel=1e-3, abs=1e-4)
        assert bool(before.note) == (metric.unit == "m")


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
    cameras = dataclasses.replace(truth.cameras, world_from_cam=truth.cameras.world_from_cam.clone())
    cameras.world_from_cam[2] = torch.nan
    confidence = torch.ones_like(truth.depths)
    confidence[0, 0] = 0
    depths = truth.depths.clone()
    depths[0, 0] = torch.nan
    prediction = dataclasses.replace(
        with_noise(truth, 0.5), cameras=cameras, depths=depths, depth_confidence=confidence
    ).transformed(SIM3)
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
    world_from_cam = truth.cameras.world_from_cam.clone()
    world_from_cam[0] = torch.nan
    late = dataclasses.replace(truth, cameras=dataclasses.replace(truth.cameras, world_from_cam=world_from_cam))
    expected = (truth.points - truth.cameras.centers[1]).norm(dim=-1).numpy()
    assert median_distance_to_first_camera(late) == pytest.approx(float(np.median(expected)))
    lost = dataclasses.replace(
        no_depth, cameras=dataclasses.replace(truth.cameras, world_from_cam=torch.full_like(world_from_cam, torch.nan))
    )
    scores = scores_by_name(point_scores(prediction, lost))
    assert math.isnan(scores["f_score"].value)
    assert math.isnan(scores["point_epe_relative"].value)
    assert scores["point_epe"].value == pytest.approx(with_depth["point_epe"].value)


def test_without_common_points_only_the_f_score_is_defined() -> None:
    truth = make_scene(2)
    for count in (0, 2):
        known = torch.zeros_like(truth.depths, dtype=torch.bool)
        known[0, 0, :count] = True
        prediction = dataclasses.replace(with_known(truth, known), depth_confidence=torch.zeros_like(truth.depths))
        for metric, score in zip(POINT_METRICS, point_scores(prediction, truth), strict=True):
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


# --- the published multi-view protocol ---------------------------------------------------------------------------


def test_multiview_truth_against_itself_is_perfect_in_any_world_frame() -> None:
    truth = curved()
    for prediction in (truth, truth.transformed(SIM3)):
        for metric, score in zip(MULTIVIEW_POINT_METRICS, multiview_point_scores(prediction, truth), strict=True):
            assert score.metric == metric.name
            assert score.value == pytest.approx(1 if metric.better == "higher" else 0, abs=1e-3)
            assert score.total == 2 * 12 * 16


def test_shift_and_scale_computed_by_hand() -> None:
    true = torch.tensor([[0.0, 0, 4], [2, 0, 5], [0, 4, 6], [0, 0, 20], [0, 0, 5]])
    # The medians are 0, 0 and 5; the distances from them are 1, 2, sqrt(17), 15 and 0.
    predicted = true / 4
    fit = shift_and_scale(predicted, true)
    assert (fit.predicted_z, fit.true_z) == (1.25, 5)
    assert fit.scale == pytest.approx(4)
    torch.testing.assert_close(fit.apply(predicted), true)
    torch.testing.assert_close(fit.apply(predicted + torch.tensor([0.0, 0, 9])), true + torch.tensor([0.0, 0, 36]))
    again = shift_and_scale(predicted + torch.tensor([1.0, 0, 9]), true)
    assert again.scale == pytest.approx(4)
    # A shift along z is removed, a shift along x is not.
    torch.testing.assert_close(again.apply(predicted + torch.tensor([1.0, 0, 9])), true + torch.tensor([4.0, 0, 0]))
    # The median of an even number of values is the lower of the two middle ones, as in torch.
    assert shift_and_scale(predicted[:4], true[:4]).true_z == 5
    with pytest.raises(NoSolution, match="both must be above 0"):
        shift_and_scale(torch.ones(3, 3), torch.eye(3))
    with pytest.raises(NoSolution, match="both must be above 0"):
        shift_and_scale(torch.tensor([[0.0, 0, 1], [5, 0, 1], [0, 7, 1]]), torch.ones(3, 3))
    with pytest.raises(ValueError, match="0 predicted and 0 true"):
        shift_and_scale(torch.ones(0, 3), torch.ones(0, 3))


def test_the_central_crop_has_224_pixels_or_the_whole_axis() -> None:
    inside = is_in_center(384, 513)
    assert inside.sum() == 224 * 224
    assert inside[80:304, 144:368].all()
    assert is_in_center(12, 16).all()
    assert is_in_center(225, 100)[:224].all()
    assert not is_in_center(225, 100)[224].any()
    assert is_in_center(300, 100)[38:262].all()


def test_the_published_protocol_is_reproduced_on_random_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    import open3d as o3d

    monkeypatch.setattr(multiview_points, "CROP", 10)
    truth = curved(frames=2)
    known = torch.rand(truth.depths.shape, generator=torch.Generator().manual_seed(3)) > 0.2
    truth = dataclasses.replace(with_known(truth, known), metres_per_unit=torch.tensor(0.5)).transformed(SIM3)
    prediction = with_noise(curved(frames=2, seed=1), 0.03, seed=4)
    scores = multiview_point_scores(prediction, truth, icp_distance=0.5)

    def in_first_camera(scene: Scene) -> np.ndarray:
        first = np.linalg.inv(scene.cameras.world_from_cam[0].double().numpy())
        return scene.points.double().numpy() @ first[:3, :3].T + first[:3, 3]

    def lower_median(values: np.ndarray) -> np.ndarray:
        return np.sort(values, axis=0)[(len(values) - 1) // 2]

    valid = known.numpy()
    p, q = in_first_camera(prediction), in_first_camera(truth)
    p[..., 2] -= lower_median(p[valid][:, 2])
    shift = lower_median(q[valid][:, 2])
    q[..., 2] -= shift
    norms = [np.linalg.norm(cloud[valid] - lower_median(cloud[valid]), axis=1) for cloud in (q, p)]
    p *= lower_median(norms[0]) / lower_median(norms[1])
    p, q, valid = p[:, 1:11, 3:13], q[:, 1:11, 3:13], valid[:, 1:11, 3:13]
    p[..., 2] += shift
    q[..., 2] += shift
    clouds = []
    for cloud in (p[valid], q[valid]):
        clouds.append(o3d.geometry.PointCloud())
        clouds[-1].points = o3d.utility.Vector3dVector(cloud)
    found = o3d.pipelines.registration.registration_icp(
        clouds[0],
        clouds[1],
        0.5,
        np.eye(4),
        o3d.pipelines.registration.TransformationEstimationPointToPoint(),
    )
    assert np.abs(found.transformation - np.eye(4)).max() > 1e-3
    clouds[0].transform(found.transformation)
    for cloud in clouds:
        cloud.estimate_normals()
    (a, normal_a), (b, normal_b) = ((np.asarray(cloud.points), np.asarray(cloud.normals)) for cloud in clouds)
    every = np.linalg.norm(a[:, None] - b, axis=-1)
    nc1 = np.abs((normal_a * normal_b[every.argmin(1)]).sum(1))
    nc2 = np.abs((normal_b * normal_a[every.argmin(0)]).sum(1))
    # The unit of the truth is 0.5 / 2.5 meters long.
    expected = {
        "multiview_accuracy": 0.2 * every.min(1).mean(),
        "multiview_accuracy_median": 0.2 * np.median(every.min(1)),
        "multiview_completeness": 0.2 * every.min(0).mean(),
        "multiview_completeness_median": 0.2 * np.median(every.min(0)),
        "multiview_nc1": nc1.mean(),
        "multiview_nc1_median": np.median(nc1),
        "multiview_nc2": nc2.mean(),
        "multiview_nc2_median": np.median(nc2),
        "multiview_nc": (nc1.mean() + nc2.mean()) / 2,
        "multiview_nc_median": (np.median(nc1) + np.median(nc2)) / 2,
    }
    assert [score.metric for score in scores] == list(expected)
    for score in scores:
        assert score.value == pytest.approx(expected[score.metric], rel=2e-3)
        assert score.total == len(b)
    assert scores_by_name(scores)["multiview_nc"].count == len(b)


def test_unknown_pixels_are_missing_only_in_the_predicted_cloud() -> None:
    truth = curved()
    known = torch.ones_like(truth.depths, dtype=torch.bool)
    known[:, :, 12:] = False
    scores = scores_by_name(multiview_point_scores(with_known(truth, known), truth))
    assert scores["multiview_accuracy"].value == pytest.approx(0, abs=1e-3)
    assert scores["multiview_completeness"].value > 0.05
    assert scores["multiview_completeness"].count == scores["multiview_accuracy"].total == 384
    assert scores["multiview_accuracy"].count == 288


def test_undefined_multiview_scores_give_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = curved()
    world_from_cam = truth.cameras.world_from_cam.clone()
    world_from_cam[0] = torch.nan
    lost = dataclasses.replace(truth, cameras=dataclasses.replace(truth.cameras, world_from_cam=world_from_cam))
    nowhere = torch.zeros_like(truth.depths, dtype=torch.bool)
    corner = nowhere.clone()
    corner[:, :3, :3] = True
    at_one_place = dataclasses.replace(truth, points=torch.ones_like(truth.points))
    monkeypatch.setattr(multiview_points, "CROP", 4)
    for prediction, true, why in (
        (lost, truth, "the first camera is not known"),
        (truth, lost, "the first camera is not known"),
        (with_known(truth, nowhere), truth, "no point is known in both"),
        (at_one_place, truth, "both must be above 0"),
        (with_known(truth, corner), truth, "the central crop has 0 predicted and 32 true points"),
    ):
        scores = multiview_point_scores(prediction, true)
        assert [score.metric for score in scores] == [metric.name for metric in MULTIVIEW_POINT_METRICS]
        for score in scores:
            assert math.isnan(score.value)
            assert why in score.note
            assert score.total == 2 * 4 * 4
