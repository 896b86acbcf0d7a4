"""Trajectory metrics: cases by hand and published formulas."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from camera_scenes import noisy, random_cameras, scene_at, value, with_cameras, without_depth, without_frames
from scenes import make_scene
from scored import SIM3, scores_by_name

from recon4d import geometry as g
from recon4d.eval.metrics.score import Score
from recon4d.eval.metrics.trajectory import (
    align_cameras,
    has_static_camera,
    nearest_registered,
    path_length,
    step_errors,
    trajectory_error,
    trajectory_scores,
)
from recon4d.eval.metrics.units import length_score


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
        trajectory_scores.metrics,
        trajectory_scores(prediction, in_meters),
        trajectory_scores(prediction, unknown),
        strict=True,
    ):
        assert a.value == pytest.approx(b.value * (0.5 if metric.unit == "m" else 1))
        assert not a.note
        assert bool(b.note) == (metric.unit == "m")
    assert length_score(Score("ate", 1, 1, 1, note="first"), unknown).note.startswith("first; in the truth's unit")


@pytest.mark.parametrize("seed", range(2))
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
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        small = 0.05 * torch.randn(7, generator=generator)
        change = g.similarity(1 + small[0], g.rotation_from_axis_angle(small[1:4]), small[4:])
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


def test_the_error_of_a_static_prediction_is_the_extent_of_the_path() -> None:
    truth = scene_at([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    scores = trajectory_scores(scene_at([[5, 5, 5]] * 4), truth)
    assert value(scores, "ate") == pytest.approx(math.sqrt(2), abs=1e-6)
    assert value(scores, "rpe_translation") == pytest.approx(2, abs=1e-6)
