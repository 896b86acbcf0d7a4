"""Camera metrics: cases by hand, naive loops and published formulas."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from camera_scenes import noisy, random_cameras, scene_at, value, with_cameras, without_depth, without_frames
from scenes import make_scene
from scored import scores_by_name

from recon4d.eval.metrics.cameras import (
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
from recon4d.eval.metrics.trajectory import trajectory_scores


def test_metric_names_are_unique_and_worst_values_are_as_documented() -> None:
    worst = {metric.name: metric.worst for metric in (*camera_scores.metrics, *trajectory_scores.metrics)}
    assert len(worst) == len(camera_scores.metrics) + len(trajectory_scores.metrics) == 6 * 3 + 5 + 5
    assert {worst[f"{name}_{n}"] for name in ("auc", "rra", "rta") for n in (5, 15, 30)} == {0.0}
    assert {worst[f"{name}_{n}_folded"] for name in ("auc", "rta") for n in (5, 15, 30)} == {0.0}
    assert {worst[f"auc_{n}_exact"] for n in (5, 15, 30)} == {0.0}
    assert worst["registered"] == 0
    assert worst["rotation_error"] == worst["translation_error"] == 180
    assert {worst[name] for name in ("fov_error", "focal_error", *(m.name for m in trajectory_scores.metrics))} == {
        None
    }


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
    for metric in camera_scores.metrics:
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


def test_small_angles_are_accurate() -> None:
    a = torch.tensor([1e-30, 0, 0], dtype=torch.float64)
    b = torch.tensor([1.0, 1e-10, 0], dtype=torch.float64)
    assert float(angle_between(a, b)) == pytest.approx(1e-10, rel=1e-6)
    assert float(angle_between(a, -b)) == pytest.approx(math.pi)


def test_rotation_errors_are_symmetric_in_time_and_translations_are_in_the_frame_of_the_earlier_camera() -> None:
    truth = scene_at([[0, 0, 0], [1, 0, 0]])
    prediction = scene_at([[0, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 20, 0]])
    forwards = pair_errors(prediction, truth)
    backwards = pair_errors(prediction.frames([1, 0]), truth.frames([1, 0]))
    assert float(forwards.rotation) == pytest.approx(float(backwards.rotation)) == pytest.approx(20, abs=1e-5)
    assert float(forwards.translation) == pytest.approx(0, abs=1e-5)
    assert float(backwards.translation) == pytest.approx(20, abs=1e-5)


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


def test_without_consecutive_frames_relative_pose_errors_are_undefined() -> None:
    truth = make_scene(5)
    scores = trajectory_scores(without_frames(truth, 1, 3), truth)
    assert value(scores, "ate") == pytest.approx(0, abs=1e-6)
    assert math.isnan(value(scores, "rpe_translation"))
    assert scores_by_name(scores)["rpe_rotation"].note == "no two consecutive frames are registered"
