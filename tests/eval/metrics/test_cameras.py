"""Tests of camera and trajectory metrics: hand-computed cases, naive loops and published formulas."""

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
from recon4d.eval.metrics.cameras import (
    CAMERA_METRICS,
    PairErrors,
    angle_between,
    area_under_curve,
    area_under_curve_exact,
    camera_scores,
    focal_errors,
    has_baseline,
    median_depth,
    pair_errors,
    share_below,
)
from recon4d.eval.metrics.score import Score
from recon4d.eval.metrics.trajectory import (
    TRAJECTORY_METRICS,
    has_static_camera,
    nearest_registered,
    path_length,
    step_errors,
    trajectory_error,
    trajectory_scores,
)
from recon4d.eval.metrics.units import length_score
from recon4d.records import Scene

SIM3 = g.similarity(
    torch.tensor(2.5), g.rotation_from_axis_angle(torch.tensor([0.4, -1.0, 0.3])), torch.tensor([3.0, -1.0, 7.0])
)


def with_cameras(scene: Scene, world_from_cam: Tensor, intrinsics: Tensor | None = None) -> Scene:
    cameras = dataclasses.replace(
        scene.cameras,
        world_from_cam=world_from_cam,
        intrinsics=scene.cameras.intrinsics if intrinsics is None else intrinsics,
    )
    return dataclasses.replace(scene, cameras=cameras)


def cameras_at(centers: list[list[float]], rotations: list[list[float]] | None = None) -> Tensor:
    """Create ``world_from_cam`` with these centers and rotations, given as axis-angle vectors in degrees."""
    angles = torch.tensor(rotations if rotations is not None else [[0.0, 0.0, 0.0]] * len(centers), dtype=torch.float64)
    return g.rigid(g.rotation_from_axis_angle(angles.deg2rad()), torch.tensor(centers, dtype=torch.float64)).float()


def scene_at(centers: list[list[float]], rotations: list[list[float]] | None = None) -> Scene:
    return with_cameras(make_scene(len(centers)), cameras_at(centers, rotations))


def without_frames(scene: Scene, *numbers: int) -> Scene:
    world_from_cam = scene.cameras.world_from_cam.clone()
    world_from_cam[list(numbers)] = torch.nan
    return with_cameras(scene, world_from_cam)


def without_depth(scene: Scene) -> Scene:
    return dataclasses.replace(scene, depth_confidence=torch.zeros_like(scene.depths))


def random_cameras(frames: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = g.rotation_from_axis_angle(torch.randn(frames, 3, generator=generator))
    return g.rigid(rotation, torch.randn(frames, 3, generator=generator))


def noisy(world_from_cam: Tensor, size: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = g.rotation_from_axis_angle(size * torch.randn(len(world_from_cam), 3, generator=generator))
    shift = size * torch.randn(len(world_from_cam), 3, generator=generator)
    return g.rigid(rotation @ world_from_cam[:, :3, :3], world_from_cam[:, :3, 3] + shift)


def value(scores: tuple[Score, ...], metric: str) -> float:
    return scores_by_name(scores)[metric].value


# --- pairs of frames ---------------------------------------------------------------------------------------------


def test_truth_against_itself_is_perfect() -> None:
    truth = make_scene(6)
    for metric, score in zip(CAMERA_METRICS, camera_scores(truth, truth), strict=True):
        assert score.metric == metric.name
        assert score.value == pytest.approx(1 if metric.better == "higher" else 0, abs=1e-9)
        assert (score.count, score.total) == (
            (6, 6) if "fov" in metric.name or "focal" in metric.name else (15, 15)
        ) or (metric.name == "registered")


def test_metric_names_are_unique_and_worst_values_are_as_documented() -> None:
    worst = {metric.name: metric.worst for metric in (*CAMERA_METRICS, *TRAJECTORY_METRICS)}
    assert len(worst) == len(CAMERA_METRICS) + len(TRAJECTORY_METRICS) == 6 * 3 + 5 + 5
    assert {worst[f"{name}_{n}"] for name in ("auc", "rra", "rta") for n in (5, 15, 30)} == {0.0}
    assert {worst[f"{name}_{n}_folded"] for name in ("auc", "rta") for n in (5, 15, 30)} == {0.0}
    assert {worst[f"auc_{n}_exact"] for n in (5, 15, 30)} == {0.0}
    assert worst["registered"] == 0
    assert worst["rotation_error"] == worst["translation_error"] == 180
    assert {worst[name] for name in ("fov_error", "focal_error", *(m.name for m in TRAJECTORY_METRICS))} == {None}


def test_errors_of_three_frames_computed_by_hand() -> None:
    truth = scene_at([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    # Frame 1 is rotated by 10 degrees about y; the direction from frame 0 to frame 2 is off by 45 degrees.
    prediction = scene_at([[0, 0, 0], [1, 0, 0], [2, 2, 0]], [[0, 0, 0], [0, 9.9999, 0], [0, 0, 0]])
    errors = pair_errors(prediction, truth)  # pairs 01, 02, 12
    # In frame 1, rotated by R_y(10), the translation (1, 2, 0) is (cos 10, 2, sin 10): its angle to (1, 0, 0).
    third = math.degrees(math.acos(math.cos(math.radians(10)) / math.sqrt(5)))
    torch.testing.assert_close(errors.rotation, torch.tensor([10.0, 0, 10], dtype=torch.float64), atol=2e-4, rtol=0)
    expected = torch.tensor([0.0, 45, third], dtype=torch.float64)
    torch.testing.assert_close(errors.translation, expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(errors.translation_folded, expected, atol=2e-4, rtol=0)
    assert errors.has_baseline.all()
    scores = camera_scores(prediction, truth)
    # The larger errors are 10, 45 and 64. The first is just below 10, so 1 of 3 pairs is below 6 of the 15 thresholds.
    assert value(scores, "auc_15") == pytest.approx(6 / 15 / 3)
    assert value(scores, "auc_5") == 0
    assert value(scores, "auc_15_exact") == pytest.approx((15 - 10) / 15 / 3, abs=1e-5)
    assert value(scores, "auc_30_exact") == pytest.approx((30 - 10) / 30 / 3, abs=1e-5)
    assert value(scores, "rra_5") == pytest.approx(1 / 3)
    assert value(scores, "rra_15") == 1
    assert value(scores, "rta_15") == pytest.approx(1 / 3)
    assert value(scores, "rotation_error") == pytest.approx(10, abs=2e-4)
    assert value(scores, "translation_error") == pytest.approx(45, abs=1e-5)


def test_thresholds_are_exclusive() -> None:
    errors = torch.tensor([0.0, 1.0, 4.5, 5.0, 7.0], dtype=torch.float64)
    assert share_below(errors, 5) == 3 / 5
    # t = 1..5: 1, 2, 2, 2, 3 of 5.
    assert area_under_curve(errors, 5) == pytest.approx(10 / 25)
    assert area_under_curve_exact(errors, 5) == pytest.approx((5 + 4 + 0.5) / 25)


def test_exact_area_is_the_integral_of_the_curve() -> None:
    errors = 40 * torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    thresholds = (np.arange(200_000) + 0.5) * 30 / 200_000
    integral = np.searchsorted(np.sort(errors.numpy()), thresholds).mean() / 50
    assert area_under_curve_exact(errors, 30) == pytest.approx(integral, abs=1e-5)


def test_the_sign_of_the_translation_counts_except_in_the_published_form() -> None:
    truth = scene_at([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    prediction = scene_at([[0, 0, 0], [-1, 0, 0], [-2, 0, 0]])
    errors = pair_errors(prediction, truth)
    assert errors.translation.tolist() == [180.0] * 3
    assert errors.translation_folded.tolist() == [0.0] * 3
    scores = camera_scores(prediction, truth)
    for n in (5, 15, 30):
        assert value(scores, f"rta_{n}") == value(scores, f"auc_{n}") == 0
        assert value(scores, f"rta_{n}_folded") == value(scores, f"auc_{n}_folded") == value(scores, f"rra_{n}") == 1


def test_translation_counts_only_with_a_sufficient_baseline() -> None:
    # The median depth is near 4, so a baseline of 0.01 is too small and 0.2 is sufficient.
    truth = scene_at([[0, 0, 0], [0.01, 0, 0], [0.2, 0, 0]])
    prediction = scene_at([[0, 0, 0], [0, 0.01, 0], [0.2, 0, 0]])
    errors = pair_errors(prediction, truth)
    assert errors.has_baseline.tolist() == [False, True, True]
    assert errors.translation[0] == pytest.approx(90)
    assert errors.largest[0] == 0
    assert errors.largest_folded[0] == pytest.approx(90)
    scores = camera_scores(prediction, truth)
    assert value(scores, "rta_5") == value(scores, "rta_15") - 0 == 1
    assert value(scores, "auc_5") > value(scores, "auc_5_folded")
    assert scores_by_name(scores)["rta_5"].count == scores_by_name(scores)["translation_error"].total == 2
    assert scores_by_name(scores)["rta_5_folded"].count == 3


def test_a_sufficient_baseline_is_one_percent_of_the_depth_or_of_the_largest_baseline() -> None:
    baselines = torch.tensor([0.0, 0.039, 0.04, 2.0, 4.0], dtype=torch.float64)
    assert has_baseline(baselines, 4.0).tolist() == [False, False, True, True, True]
    assert has_baseline(baselines, math.nan).tolist() == [False, False, True, True, True]
    assert has_baseline(baselines * 1e-12, math.nan).tolist() == [False] * 5
    assert has_baseline(torch.full((2,), 1e-9, dtype=torch.float64), math.nan).all()
    assert not has_baseline(baselines * 0, math.nan).any()
    assert has_baseline(baselines[:0], math.nan).tolist() == []


def test_median_depth_is_over_known_pixels() -> None:
    scene = make_scene(2)
    depths = torch.full_like(scene.depths, 100.0)
    depths[0, 0, :4] = torch.tensor([1.0, 2.0, 4.0, 8.0])
    confidence = torch.zeros_like(depths)
    confidence[0, 0, :4] = 1
    assert median_depth(dataclasses.replace(scene, depths=depths, depth_confidence=confidence)) == 3
    assert math.isnan(median_depth(without_depth(scene)))


def test_only_rotation_counts_for_a_camera_without_translation() -> None:
    truth = scene_at([[1, 2, 3]] * 3, [[0, 0, 0], [0, 20, 0], [0, 40, 0]])
    prediction = scene_at([[0, 0, 0], [1, 0, 0], [0, 5, 0]], [[0, 0, 0], [0, 20, 0], [0, 40, 0]])
    assert pair_errors(prediction, truth).translation.tolist() == [180.0] * 3
    assert pair_errors(prediction, truth).translation_folded.tolist() == [1e6] * 3
    for scene in (truth, without_depth(truth)):
        scores = camera_scores(prediction, scene)
        assert value(scores, "auc_5") == value(scores, "rra_5") == 1
        assert value(scores, "auc_5_folded") == value(scores, "rta_5_folded") == 0
        assert math.isnan(value(scores, "rta_5"))
        assert scores_by_name(scores)["translation_error"].note == "no two true cameras have a sufficient baseline"


def test_a_frame_without_known_intrinsics_is_not_registered() -> None:
    truth = make_scene(2)
    intrinsics = truth.cameras.intrinsics.clone()
    intrinsics[1, 0, 0] = torch.nan
    errors = pair_errors(with_cameras(truth, truth.cameras.world_from_cam, intrinsics), truth)
    assert (errors.rotation.item(), errors.translation.item(), errors.translation_folded.item()) == (180, 180, 1e6)


def test_a_static_prediction_has_all_translations_wrong() -> None:
    truth = scene_at([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    errors = pair_errors(scene_at([[5, 5, 5]] * 3), truth)
    assert errors.translation.tolist() == [180.0] * 3
    assert errors.translation_folded.tolist() == [1e6] * 3


def test_pairs_with_an_unregistered_frame_are_errors_of_180_degrees() -> None:
    truth = make_scene(4)
    prediction = without_frames(truth, 2)
    errors = pair_errors(prediction, truth)  # 01 02 03 12 13 23
    assert errors.rotation.round(decimals=6).tolist() == [0, 180, 0, 180, 0, 180]
    assert errors.translation.round(decimals=6).tolist() == [0, 180, 0, 180, 0, 180]
    assert errors.translation_folded.round(decimals=6).tolist() == [0, 1e6, 0, 1e6, 0, 1e6]
    scores = camera_scores(prediction, truth)
    for name in ("auc_5", "auc_15_exact", "auc_30_folded", "rra_5", "rta_15", "rta_5_folded"):
        assert value(scores, name) == pytest.approx(0.5)
    assert value(scores, "registered") == 3 / 4
    assert scores_by_name(scores)["fov_error"].count == 3
    assert scores_by_name(scores)["fov_error"].total == 4


def test_a_clip_without_registered_frames_has_the_worst_values() -> None:
    truth = make_scene(4)
    scores = scores_by_name(camera_scores(without_frames(truth, 0, 1, 2, 3), truth))
    for metric in CAMERA_METRICS:
        if metric.worst is None:
            assert math.isnan(scores[metric.name].value)
            assert scores[metric.name].total == 4
        else:
            assert scores[metric.name].value == metric.worst


def test_frames_without_a_true_camera_are_skipped() -> None:
    truth, prediction = make_scene(5), make_scene(5, seed=1)
    partly = without_frames(truth, 3)
    kept = [0, 1, 2, 4]
    expected = camera_scores(prediction.frames(kept), truth.frames(kept))
    # The median depth is over all frames, so metrics of the translation may differ.
    assert value(camera_scores(prediction, partly), "rotation_error") == value(expected, "rotation_error")
    assert scores_by_name(camera_scores(prediction, partly))["rra_5"].total == 6
    assert value(camera_scores(without_frames(prediction, 3), partly), "registered") == 1
    assert camera_scores(prediction, without_frames(truth, *range(5))) == ()


def test_one_frame_has_no_pairs() -> None:
    truth = make_scene(1)
    scores = scores_by_name(camera_scores(truth, truth))
    assert scores["fov_error"].value == scores["focal_error"].value == 0
    assert scores["registered"].value == 1
    pair_metrics = set(scores) - {"fov_error", "focal_error", "registered"}
    assert len(pair_metrics) == 20
    assert all(math.isnan(scores[name].value) and scores[name].note for name in pair_metrics)


def test_intrinsics_computed_by_hand() -> None:
    truth = make_scene(2)  # 16 wide, focal lengths 20 and 22
    intrinsics = truth.cameras.intrinsics.clone()
    intrinsics[0, 0, 0], intrinsics[0, 1, 1] = 8.0, 55.0
    prediction = with_cameras(truth, truth.cameras.world_from_cam, intrinsics)
    scores = camera_scores(prediction, truth)
    expected = 90 - math.degrees(2 * math.atan(8 / 20))
    assert value(scores, "fov_error") == pytest.approx(expected / 2, abs=1e-5)
    # sqrt(8 * 55) = sqrt(20 * 22): the geometric mean is unchanged.
    assert value(scores, "focal_error") == pytest.approx(0, abs=1e-6)
    intrinsics[0, 1, 1] *= 4
    assert focal_errors(prediction, truth).tolist() == pytest.approx([1, 0], abs=1e-6)
    intrinsics[0, :2, :2] *= -1
    assert focal_errors(prediction, truth).tolist() == pytest.approx([1, 0], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-4, 2))
def test_pair_errors_equal_a_loop_with_scipy(seed: int, size: float) -> None:
    from scipy.spatial.transform import Rotation

    truth = with_cameras(make_scene(4), random_cameras(4, seed))
    prediction = with_cameras(make_scene(4), noisy(truth.cameras.world_from_cam, size, seed + 1))
    errors = pair_errors(prediction, truth)
    pair = 0
    for i in range(4):
        for j in range(i + 1, 4):
            motions = []
            for scene in (truth, prediction):
                world_from_cam = scene.cameras.world_from_cam.double().numpy()
                motions.append(np.linalg.inv(world_from_cam[i]) @ world_from_cam[j])
            true, predicted = motions
            rotation = Rotation.from_matrix(predicted[:3, :3]) * Rotation.from_matrix(true[:3, :3]).inv()
            assert float(errors.rotation[pair]) == pytest.approx(math.degrees(rotation.magnitude()), abs=1e-3)
            a, b = (m[:3, 3] / np.linalg.norm(m[:3, 3]) for m in (predicted, true))
            # Kahan's formula of the angle needs neither arccosine nor cross product.
            angle = math.degrees(2 * math.atan2(np.linalg.norm(a - b), np.linalg.norm(a + b)))
            assert float(errors.translation[pair]) == pytest.approx(angle, abs=1e-3)
            pair += 1
    assert pair == len(errors.rotation)


def test_small_angles_are_accurate() -> None:
    a = torch.tensor([1e-30, 0, 0], dtype=torch.float64)
    b = torch.tensor([1.0, 1e-10, 0], dtype=torch.float64)
    assert float(angle_between(a, b)) == pytest.approx(1e-10, rel=1e-6)
    assert float(angle_between(a, -b)) == pytest.approx(math.pi)


def test_pair_errors_do_not_depend_on_the_world_frame() -> None:
    truth = with_cameras(make_scene(6), random_cameras(6, 0))
    prediction = with_cameras(make_scene(6), noisy(truth.cameras.world_from_cam, 0.1, 1))
    expected = camera_scores(prediction, truth)
    for other in (
        camera_scores(prediction.transformed(SIM3), truth),
        camera_scores(prediction, truth.transformed(SIM3)),
    ):
        for before, after in zip(expected, other, strict=True):
            assert after.value == pytest.approx(before.value, abs=1e-4)


def test_rotation_errors_are_symmetric_in_time_and_translations_are_in_the_frame_of_the_earlier_camera() -> None:
    truth = scene_at([[0, 0, 0], [1, 0, 0]])
    prediction = scene_at([[0, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 20, 0]])
    forwards = pair_errors(prediction, truth)
    backwards = pair_errors(prediction.frames([1, 0]), truth.frames([1, 0]))
    assert float(forwards.rotation) == pytest.approx(float(backwards.rotation)) == pytest.approx(20, abs=1e-5)
    assert float(forwards.translation) == pytest.approx(0, abs=1e-5)
    assert float(backwards.translation) == pytest.approx(20, abs=1e-5)


def test_inverted_poses_are_wrong() -> None:
    truth = with_cameras(make_scene(5), random_cameras(5, 3))
    prediction = with_cameras(truth, g.invert(truth.cameras.world_from_cam))
    assert value(camera_scores(prediction, truth), "rra_30") < 0.5
    assert value(camera_scores(prediction, truth), "rta_30") < 0.5


def test_published_auc_is_reproduced_on_random_errors() -> None:
    generator = np.random.default_rng(5)
    rotation = generator.uniform(0, 40, 60)
    direction, true_direction = generator.normal(size=(2, 60, 3))
    direction[:30] = true_direction[:30] + 0.2 * generator.normal(size=(30, 3))
    direction[::2] *= -1
    # As published: unit directions, angles between lines, a histogram with bins of one degree and its cumulative sum.
    dot = np.sum(direction * true_direction, -1) / np.linalg.norm(direction, axis=-1)
    dot = dot / np.linalg.norm(true_direction, axis=-1)
    folded = np.degrees(np.arccos(np.sqrt(dot**2)))
    largest = np.maximum(rotation, folded)
    errors = PairErrors(
        rotation=torch.tensor(rotation),
        translation=torch.tensor(np.degrees(np.arccos(dot))),
        translation_folded=torch.tensor(folded),
        has_baseline=torch.ones(60, dtype=torch.bool),
    )
    for n in (5, 15, 30):
        histogram = np.array([np.sum((k <= largest) & (largest < k + 1)) for k in range(n)]) / 60
        assert area_under_curve(errors.largest_folded, n) == pytest.approx(np.cumsum(histogram).mean())
    signed = np.minimum(errors.translation.numpy(), 180 - errors.translation.numpy())
    np.testing.assert_allclose(signed, folded, atol=1e-6)


def test_published_scores_are_reproduced_on_random_cameras() -> None:
    true = random_cameras(7, 11)
    predicted = noisy(true, 0.15, 12)
    scores = camera_scores(with_cameras(make_scene(7), predicted), with_cameras(make_scene(7), true))
    p, t = predicted.double().numpy(), true.double().numpy()
    rotation, translation = [], []
    for i in range(7):
        for j in range(i + 1, 7):
            a, b = np.linalg.inv(p[i]) @ p[j], np.linalg.inv(t[i]) @ t[j]
            rotation.append(np.degrees(np.arccos((np.trace(b[:3, :3].T @ a[:3, :3]) - 1) / 2)))
            cosine = a[:3, 3] @ b[:3, 3] / np.linalg.norm(a[:3, 3]) / np.linalg.norm(b[:3, 3])
            translation.append(np.degrees(np.arccos(np.sqrt(cosine**2))))
    largest = np.maximum(rotation, translation)
    for n in (5, 15, 30):
        histogram = np.array([np.mean((k <= largest) & (largest < k + 1)) for k in range(n)])
        assert value(scores, f"auc_{n}_folded") == pytest.approx(np.cumsum(histogram).mean())
        assert value(scores, f"rta_{n}_folded") == pytest.approx(np.mean(np.array(translation) < n))
        assert value(scores, f"rra_{n}") == pytest.approx(np.mean(np.array(rotation) < n))
    assert 0 < value(scores, "auc_15_folded") < 1


# --- trajectory ----------------------------------------------------------------------------------------------------


def test_trajectory_against_itself_is_perfect_in_any_world_frame() -> None:
    truth = with_cameras(make_scene(6, metres_per_unit=1.0), random_cameras(6, 0))
    for prediction in (truth, truth.transformed(SIM3)):
        for metric, score in zip(TRAJECTORY_METRICS, trajectory_scores(prediction, truth), strict=True):
            assert score.metric == metric.name
            assert score.value == pytest.approx(0, abs=1e-4 if score.metric == "rpe_rotation" else 1e-5)
            assert score.count == score.total == (5 if "rpe" in metric.name else 6)
            assert score.alignment == "sim3 of cameras"
            assert not score.note


def test_trajectory_errors_computed_by_hand() -> None:
    # The truth is a square of side 2, the prediction a rectangle of 2 x 4: the best scale about the center is 12 / 20.
    square = [[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]
    rectangle = [[-1.0, -2, 0], [1, -2, 0], [1, 2, 0], [-1, 2, 0]]
    truth, prediction = scene_at(square), scene_at(rectangle)
    scores = trajectory_scores(prediction, truth)
    # Corner (1, 2) is mapped to (0.6, 1.2): errors of 0.4 and 0.2.
    assert value(scores, "ate") == value(scores, "ate_all") == pytest.approx(math.sqrt(0.2), abs=1e-6)
    assert value(scores, "ate_of_path") == pytest.approx(math.sqrt(0.2) / 6, abs=1e-6)
    # The steps are 1.2, 2.4 and 1.2 instead of 2.
    assert value(scores, "rpe_translation") == pytest.approx(math.sqrt((0.64 + 0.16 + 0.64) / 3), abs=1e-6)
    assert value(scores, "rpe_rotation") == pytest.approx(0, abs=1e-5)
    assert scores_by_name(scores)["ate"].note == "in the truth's unit, which is not known in meters"
    assert scores_by_name(scores)["rpe_rotation"].note == ""


def test_rotation_of_steps_computed_by_hand() -> None:
    centers = [[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 2, 1]]
    rotations = [[0.0, 0, 0], [0, 3, 0], [0, 3, 0], [0, 7, 0]]
    scores = trajectory_scores(scene_at(centers, rotations), scene_at(centers))
    assert value(scores, "rpe_rotation") == pytest.approx(math.sqrt((9 + 0 + 16) / 3), abs=1e-5)


def test_lengths_are_in_meters_if_the_unit_is_known() -> None:
    in_meters = with_cameras(make_scene(5, metres_per_unit=0.5), random_cameras(5, 1))
    unknown = dataclasses.replace(in_meters, metres_per_unit=torch.tensor(torch.nan))
    prediction = with_cameras(make_scene(5), noisy(in_meters.cameras.world_from_cam, 0.1, 2))
    for metric, a, b in zip(
        TRAJECTORY_METRICS,
        trajectory_scores(prediction, in_meters),
        trajectory_scores(prediction, unknown),
        strict=True,
    ):
        assert a.value == pytest.approx(b.value * (0.5 if metric.unit == "m" else 1))
        assert not a.note
        assert bool(b.note) == (metric.unit == "m")
    assert length_score(Score("ate", 1, 1, 1, note="first"), unknown).note.startswith("first; in the truth's unit")


def test_trajectory_errors_are_invariant_to_a_similarity_of_the_prediction_and_scale_with_the_truth() -> None:
    truth = with_cameras(make_scene(6), random_cameras(6, 4))
    prediction = with_cameras(make_scene(6), noisy(truth.cameras.world_from_cam, 0.2, 5))
    expected = trajectory_scores(prediction, truth)
    for metric, before, moved, larger in zip(
        TRAJECTORY_METRICS,
        expected,
        trajectory_scores(prediction.transformed(SIM3), truth),
        trajectory_scores(prediction, truth.transformed(SIM3)),
        strict=True,
    ):
        assert moved.value == pytest.approx(before.value, rel=1e-4)
        assert larger.value == pytest.approx(before.value * (2.5 if metric.unit == "m" else 1), rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_published_trajectory_errors_are_reproduced_on_random_paths(seed: int) -> None:
    true = random_cameras(8, seed)
    predicted = SIM3 @ noisy(true, 0.3, seed + 50)
    predicted[:, :3, :3] /= 2.5
    scores = trajectory_scores(with_cameras(make_scene(8), predicted), with_cameras(make_scene(8), true))
    p, q = predicted.double().numpy(), true.double().numpy()
    mean_p, mean_q = p[:, :3, 3].mean(0), q[:, :3, 3].mean(0)
    covariance = sum(np.outer(q[i, :3, 3] - mean_q, p[i, :3, 3] - mean_p) for i in range(8)) / 8
    variance = np.mean([np.sum((p[i, :3, 3] - mean_p) ** 2) for i in range(8)])
    u, d, vt = np.linalg.svd(covariance)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ sign @ vt
    scale = np.trace(np.diag(d) @ sign) / variance
    aligned = p.copy()
    for i in range(8):
        aligned[i, :3, 3] = scale * rotation @ (p[i, :3, 3] - mean_p) + mean_q
        aligned[i, :3, :3] = rotation @ p[i, :3, :3]
    ate = np.sqrt(np.mean([np.sum((aligned[i, :3, 3] - q[i, :3, 3]) ** 2) for i in range(8)]))
    lengths, angles = [], []
    for i in range(7):
        left = np.linalg.inv(np.linalg.inv(q[i]) @ q[i + 1]) @ (np.linalg.inv(aligned[i]) @ aligned[i + 1])
        lengths.append(np.linalg.norm(left[:3, 3]))
        angles.append(np.degrees(np.arccos((np.trace(left[:3, :3]) - 1) / 2)))
    assert value(scores, "ate") == pytest.approx(ate, rel=1e-5)
    assert value(scores, "ate_all") == pytest.approx(ate, rel=1e-5)
    assert value(scores, "rpe_translation") == pytest.approx(np.sqrt(np.mean(np.square(lengths))), rel=1e-5)
    assert value(scores, "rpe_rotation") == pytest.approx(np.sqrt(np.mean(np.square(angles))), rel=1e-4)


def test_no_other_similarity_has_a_smaller_error() -> None:
    true = random_cameras(9, 1)
    predicted = noisy(true, 0.3, 2)
    least = trajectory_error(predicted, true)
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        small = 0.05 * torch.randn(7, generator=generator)
        change = g.similarity(1 + small[0], g.rotation_from_axis_angle(small[1:4]), small[4:])
        from recon4d.eval.metrics.trajectory import align_cameras

        other = change.double() @ align_cameras(predicted, true).truth_from_prediction
        left = g.transform_points(other, predicted[:, :3, 3].double()) - true[:, :3, 3].double()
        assert float(left.square().sum(-1).mean().sqrt()) >= least


def test_unregistered_frames_take_the_camera_of_the_nearest_registered_one() -> None:
    registered = torch.tensor([False, True, False, True, False, False, True, False])
    assert nearest_registered(registered).tolist() == [1, 1, 1, 3, 3, 6, 6, 6]
    with pytest.raises(ValueError, match="none of 2 frames is registered"):
        nearest_registered(torch.zeros(2, dtype=torch.bool))


def test_unregistered_frames_count_only_in_ate_all() -> None:
    truth = with_cameras(make_scene(7), random_cameras(7, 6))
    prediction = with_cameras(make_scene(7), noisy(truth.cameras.world_from_cam, 0.1, 7))
    partly = without_frames(prediction, 2, 6)
    kept = [0, 1, 3, 4, 5]
    scores, on_kept = trajectory_scores(partly, truth), trajectory_scores(prediction.frames(kept), truth.frames(kept))
    assert value(scores, "ate") == pytest.approx(value(on_kept, "ate"))
    assert (scores_by_name(scores)["ate"].count, scores_by_name(scores)["ate"].total) == (5, 7)
    filled = prediction.frames([0, 1, 1, 3, 4, 5, 5])
    assert value(scores, "ate_all") == pytest.approx(value(trajectory_scores(filled, truth), "ate"))
    assert scores_by_name(scores)["ate_all"].count == 7
    # Of six steps 01, 34 and 45 are left; 13 is not a step.
    assert (scores_by_name(scores)["rpe_rotation"].count, scores_by_name(scores)["rpe_rotation"].total) == (3, 6)
    numbers = torch.tensor(kept)
    errors = step_errors(prediction.cameras.world_from_cam[numbers], truth.cameras.world_from_cam[numbers], numbers)
    one = [g.invert(a.cameras.world_from_cam[3]) @ a.cameras.world_from_cam[4] for a in (prediction, truth)]
    expected = g.rotation_angle(one[1][:3, :3].T @ one[0][:3, :3]).rad2deg()
    assert float(errors.rotation[1]) == pytest.approx(float(expected), abs=1e-3)
    # The length of the path is over all true frames.
    length = path_length(truth.cameras.centers)
    assert value(scores, "ate_of_path") == pytest.approx(value(scores, "ate") / length)


def test_frames_without_a_true_camera_are_skipped_in_the_trajectory() -> None:
    truth = with_cameras(make_scene(6), random_cameras(6, 8))
    prediction = with_cameras(make_scene(6), noisy(truth.cameras.world_from_cam, 0.1, 9))
    kept = [0, 1, 2, 4, 5]
    scores = trajectory_scores(prediction, without_frames(truth, 3))
    on_kept = trajectory_scores(prediction.frames(kept), truth.frames(kept))
    for name in ("ate", "ate_of_path", "ate_all"):
        assert value(scores, name) == pytest.approx(value(on_kept, name))
        assert scores_by_name(scores)[name].total == 5
    assert (scores_by_name(scores)["rpe_rotation"].count, scores_by_name(scores)["rpe_rotation"].total) == (3, 3)
    assert trajectory_scores(prediction, without_frames(truth, *range(6))) == ()


def test_fewer_than_three_frames_and_static_cameras_are_undefined_with_a_reason() -> None:
    truth = make_scene(5)
    for score in trajectory_scores(without_frames(truth, 0, 1, 2), truth):
        assert math.isnan(score.value)
        assert score.note == "2 of 5 frames are registered; at least 3 are needed"
        assert score.total == 5
    assert not math.isnan(value(trajectory_scores(without_frames(truth, 0, 1), truth), "ate"))
    static = scene_at([[1, 2, 3]] * 5, [[0, i, 0] for i in range(5)])
    for score in trajectory_scores(truth, static):
        assert score.note == "the true camera is static"


def test_the_threshold_of_static_cameras_is_relative_to_the_depth() -> None:
    small = [[0.0, 0, 0], [3e-6, 0, 0], [0, 0, 0]]  # the median depth is 4
    assert has_static_camera(scene_at(small))
    assert not has_static_camera(scene_at([[0.0, 0, 0], [5e-6, 0, 0], [0, 0, 0]]))
    assert not has_static_camera(without_depth(scene_at(small)))
    assert has_static_camera(without_depth(scene_at([[0.0, 0, 0], [0.9e-9, 0, 0], [0, 0, 0]])))
    assert not has_static_camera(without_depth(scene_at([[0.0, 0, 0], [1.1e-9, 0, 0], [0, 0, 0]])))


def test_without_consecutive_frames_relative_pose_errors_are_undefined() -> None:
    truth = make_scene(5)
    scores = trajectory_scores(without_frames(truth, 1, 3), truth)
    assert value(scores, "ate") == pytest.approx(0, abs=1e-6)
    assert math.isnan(value(scores, "rpe_translation"))
    assert scores_by_name(scores)["rpe_rotation"].note == "no two consecutive frames are registered"


def test_the_error_of_a_static_prediction_is_the_extent_of_the_path() -> None:
    truth = scene_at([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    scores = trajectory_scores(scene_at([[5, 5, 5]] * 4), truth)
    assert value(scores, "ate") == pytest.approx(math.sqrt(2), abs=1e-6)
    assert value(scores, "rpe_translation") == pytest.approx(2, abs=1e-6)


def test_a_straight_path_has_defined_errors() -> None:
    truth = scene_at([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    prediction = scene_at([[0, 0, 0], [0, 2, 0], [0, 4, 0], [0, 6, 0]])
    assert value(trajectory_scores(prediction, truth), "ate") == pytest.approx(0, abs=1e-6)
