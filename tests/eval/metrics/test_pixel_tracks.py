"""Tests of track metrics in the image: TAP-Vid, survival and the median trajectory error."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from camera_scenes import without_frames
from scenes import HEIGHT, WIDTH, make_scene
from scored import scores_by_name, tracks_of, with_tracks

from recon4d import geometry as g
from recon4d.eval.metrics.pixel_tracks import (
    average_jaccard,
    is_after_anchor,
    is_off_anchor,
    mean_share_below,
    pixel_errors,
    pixel_track_scores,
)
from recon4d.eval.metrics.track_pairs import project_into_frames, track_pairs
from recon4d.records import Cameras, Scene, Tracks

STEP_X, STEP_Y = 256 / WIDTH, 256 / HEIGHT


def scene_of(pixels: torch.Tensor, visibility: torch.Tensor, anchors: tuple[int, ...] = (0,)) -> Scene:
    """Create tracks that project to pixels of shape (anchor, time, query, 2), at depth 2, with static cameras of focal
    length 10."""
    num_frames = pixels.shape[1]
    scene = make_scene(num_frames)
    intrinsics = torch.tensor([[10.0, 0.0, 8.0], [0.0, 10.0, 6.0], [0.0, 0.0, 1.0]])
    flat = g.unproject(pixels.reshape(-1, 2), torch.full((pixels[..., 0].numel(),), 2.0), intrinsics)
    return replace(
        scene,
        cameras=Cameras(torch.eye(4).expand(num_frames, 4, 4), intrinsics.expand(num_frames, 3, 3)),
        tracks=Tracks(
            points=flat.reshape(*pixels.shape[:-1], 3),
            visibility=visibility,
            confidence=torch.ones_like(visibility),
            anchors=torch.tensor(anchors),
            pixels=torch.stack([pixels[i, anchor] for i, anchor in enumerate(anchors)]),
        ),
    )


def random_scenes(seed: int) -> tuple[Scene, Scene]:
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(2, 1, 7, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    pixels = start + torch.randn(2, 6, 7, 2, generator=generator) * 0.7
    truth = scene_of(pixels, (torch.rand(2, 6, 7, generator=generator) > 0.4).float(), (0, 3))
    known = (torch.rand(2, 6, 7, generator=generator) > 0.15).float()
    known[0, 0], known[1, 3], known[:, 4] = 1, 1, 1
    truth = with_tracks(truth, confidence=known)
    off = pixels + torch.randn(2, 6, 7, 2, generator=generator) * torch.rand(2, 6, 7, 1, generator=generator) * 1.5
    prediction = scene_of(off, torch.rand(2, 6, 7, generator=generator), (0, 3))
    prediction = with_tracks(prediction, pixels=tracks_of(truth).pixels)
    confidence = (torch.rand(2, 6, 7, generator=generator) > 0.1).float()
    points = tracks_of(prediction).points.clone()
    points[0, 4, 1] *= -1
    points[1, 5, 2, 2] = 0
    return with_tracks(prediction, confidence=confidence, points=points), truth


def test_scores_computed_on_paper() -> None:
    # Two tracks, four frames; one pixel of the maps is 16 pixels wide in the scaled image. The errors of track A are 3,
    # 20 and 60 pixels, those of B are 0, 0.5 and 1.5. A is occluded in frame 3, and B is predicted to be occluded in
    # frame 2.
    true = torch.tensor([[8.0, 6.0], [3.0, 4.0]]).expand(1, 4, 2, 2)
    errors = torch.tensor([[90.0, 90.0], [3.0, 0.0], [20.0, 0.5], [60.0, 1.5]])
    predicted = true.clone()
    predicted[0, :, :, 0] += errors / STEP_X
    visibility, predicted_visibility = torch.ones(1, 4, 2), torch.ones(1, 4, 2)
    visibility[0, 3, 0] = 0
    predicted_visibility[0, 2, 1] = 0.5
    truth, prediction = scene_of(true, visibility), scene_of(predicted, predicted_visibility)
    prediction = with_tracks(prediction, pixels=tracks_of(truth).pixels)
    scores = scores_by_name(pixel_track_scores(prediction, truth))
    assert scores["delta_avg"].value == pytest.approx((2 / 5 + 3 / 5 + 4 / 5 + 4 / 5 + 4 / 5) / 5)
    assert scores["delta_avg"].total == 5
    assert scores["occlusion_accuracy"].value == pytest.approx(4 / 6)
    assert scores["occlusion_accuracy"].total == 6
    # A is predicted to be visible three times and B twice. Hits: B1 at 1 px, also B3 at 2 px, also A1 from 4 px on.
    assert scores["average_jaccard"].value == pytest.approx((1 / (5 + 4) + 2 / (5 + 3) + 3 * 3 / (5 + 2)) / 5)
    assert scores["pixel_survival"].value == pytest.approx((2 / 3 + 1) / 2)
    assert scores["pixel_survival_16"].value == pytest.approx((1 / 3 + 1) / 2)
    assert scores["median_trajectory_error"].value == pytest.approx(1.5, abs=1e-3)  # the third of six
    assert scores["median_trajectory_error"].count == 6
    assert all(score.alignment == "none" for score in scores.values())


def test_each_axis_has_its_own_scale_to_256_pixels() -> None:
    true = torch.tensor([8.0, 6.0]).expand(1, 2, 1, 2)
    for offset, wanted in (
        ((1.0, 0.0), STEP_X),
        ((0.0, 1.0), STEP_Y),
        ((3.0, -3.0), math.hypot(3 * STEP_X, 3 * STEP_Y)),
    ):
        truth = scene_of(true, torch.ones(1, 2, 1))
        prediction = with_tracks(
            scene_of(true + torch.tensor(offset), torch.ones(1, 2, 1)), pixels=tracks_of(truth).pixels
        )
        errors, has_place = pixel_errors(track_pairs(prediction, truth), truth.size)
        assert errors[1, 0].item() == pytest.approx(wanted, rel=1e-5)
        assert has_place.all()


@pytest.mark.parametrize("seed", range(2))
def test_scores_equal_plain_loops(seed: int) -> None:
    prediction, truth = random_scenes(seed)
    p, t = tracks_of(prediction), tracks_of(truth)
    where, true = prediction.track_pixels.double().numpy(), truth.track_pixels.double().numpy()
    errors, right, alive = {}, [], {50: [], 16: []}
    for a, anchor in enumerate((0, 3)):
        for q in range(7):
            path = []
            for f in [f for f in range(anchor + 1, 6) if t.confidence[a, f, q] > 0]:
                found, before = p.confidence[a, f, q] > 0, p.points[a, f, q, 2] > 0
                offset = (where[a, f, q] - true[a, f, q]) * np.array([STEP_X, STEP_Y])
                errors[a, f, q] = np.hypot(*offset) if found and before else np.inf
                right.append(bool(found) and (float(p.visibility[a, f, q]) > 0.5) == bool(t.visibility[a, f, q]))
                path.append(errors[a, f, q])
            for limit, shares in alive.items():
                shares.append(next((i for i, error in enumerate(path) if error > limit), len(path)) / len(path))
    visible = [e for e in errors if t.visibility[e]]
    positives = [e for e in errors if p.visibility[e] > 0.5 and p.confidence[e] > 0]
    jaccards = []
    for limit in (1, 2, 4, 8, 16):
        hits = len([e for e in positives if t.visibility[e] and errors[e] < limit])
        jaccards.append(hits / (len(visible) + len(positives) - hits))
    finite = np.sort([error for error in errors.values() if error < np.inf])
    wanted = {
        "delta_avg": np.mean([[errors[e] < limit for e in visible] for limit in (1, 2, 4, 8, 16)]),
        "occlusion_accuracy": np.mean(right),
        "average_jaccard": np.mean(jaccards),
        "pixel_survival": np.mean(alive[50]),
        "pixel_survival_16": np.mean(alive[16]),
        "median_trajectory_error": finite[(len(finite) - 1) // 2],
    }
    scores = scores_by_name(pixel_track_scores(prediction, truth))
    for name, value in wanted.items():
        assert scores[name].value == pytest.approx(float(value), rel=1e-3), name
    assert scores["median_trajectory_error"].count == len(finite) < scores["median_trajectory_error"].total


def test_projection_equals_track_pixels_and_is_nan_behind_the_camera() -> None:
    scene = make_scene(4)
    flat = tracks_of(scene).points[0]
    assert torch.allclose(project_into_frames(flat, scene.cameras), scene.track_pixels[0], atol=1e-4)
    behind = flat.clone()
    behind[0] *= -1
    behind[1, 0, :] = scene.cameras.centers[1]
    projected = project_into_frames(behind, scene.cameras)
    assert projected[0].isnan().all()
    assert projected[1, 0].isnan().all()
    assert not projected[2:].isnan().any()


def test_points_behind_a_camera_are_errors_even_if_they_project_to_the_correct_pixel() -> None:
    true = torch.tensor([8.5, 6.5]).expand(1, 3, 1, 2)
    truth = scene_of(true, torch.ones(1, 3, 1))
    points = tracks_of(truth).points.clone()
    points[0, 1] *= -1
    scores = scores_by_name(pixel_track_scores(with_tracks(truth, points=points), truth))
    assert scores["delta_avg"].value == 0.5
    assert scores["average_jaccard"].value == pytest.approx(1 / 3)
    assert scores["pixel_survival"].value == 0
    assert scores["occlusion_accuracy"].value == 1
    assert (scores["median_trajectory_error"].count, scores["median_trajectory_error"].total) == (1, 2)
    points = tracks_of(truth).points * -1
    points[0, 0] *= -1
    scores = scores_by_name(pixel_track_scores(with_tracks(truth, points=points), truth))
    assert math.isnan(scores["median_trajectory_error"].value)
    assert scores["median_trajectory_error"].note == "no predicted point is in front of its camera"


def test_only_the_visibility_of_true_points_behind_the_camera_counts() -> None:
    true = torch.tensor([8.5, 6.5]).expand(1, 4, 1, 2)
    visibility = torch.tensor([1.0, 1.0, 0.0, 0.0])[None, :, None]
    truth = scene_of(true, visibility)
    points = tracks_of(truth).points.clone()
    points[0, 2] *= -1
    behind = with_tracks(truth, points=points)
    scores = scores_by_name(pixel_track_scores(truth, behind))
    assert scores["pixel_survival"].value == 1
    assert scores["median_trajectory_error"].total == 2
    assert scores["occlusion_accuracy"].total == 3
    assert scores["occlusion_accuracy"].value == scores["average_jaccard"].value == 1
    predicted_visible = with_tracks(behind, visibility=torch.ones(1, 4, 1))
    scores = scores_by_name(pixel_track_scores(truth, predicted_visible))
    assert scores["delta_avg"].total == scores["average_jaccard"].total == 2
    assert scores["delta_avg"].value == 1


def test_unregistered_frames_are_errors() -> None:
    truth = make_scene(4)
    scores = scores_by_name(pixel_track_scores(without_frames(truth, 2), truth))
    assert scores["delta_avg"].value == pytest.approx(2 / 3)
    assert scores["pixel_survival"].value == pytest.approx(1 / 3)
    assert scores["occlusion_accuracy"].value == 1
    assert scores["median_trajectory_error"].count * 3 == scores["median_trajectory_error"].total * 2


def test_evaluated_frames_of_both_query_modes() -> None:
    anchors = torch.tensor([0, 2])
    assert is_after_anchor(anchors, 3).tolist() == [[False, False], [True, False], [True, False]]
    assert is_off_anchor(anchors, 3).tolist() == [[False, True], [True, True], [True, False]]


def test_thresholds_are_exclusive() -> None:
    errors = torch.tensor([[1.0, 0.5, 3.0, torch.nan]])
    everywhere = torch.ones(1, 4, dtype=torch.bool)
    assert mean_share_below(errors, everywhere, (1, 4)) == pytest.approx((1 + 3) / 4 / 2)
    # Hits of four points: one at 1, two at 2, three from 4 on. All other points are false positives.
    assert average_jaccard(errors, everywhere, everywhere, everywhere) == pytest.approx((1 / 7 + 2 / 6 + 3 * 3 / 5) / 5)


def test_survival_threshold_is_inclusive() -> None:
    true = torch.tensor([8.0, 6.0]).expand(1, 3, 1, 2)
    truth = scene_of(true, torch.ones(1, 3, 1))
    for error, name, wanted in (
        (50.0, "pixel_survival", 1), (50.5, "pixel_survival", 0.5),
        (16.0, "pixel_survival_16", 1), (16.5, "pixel_survival_16", 0.5),
    ):  # fmt: skip
        points = true.clone()
        points[0, 2, 0, 0] += error / STEP_X
        prediction = with_tracks(scene_of(points, torch.ones(1, 3, 1)), pixels=tracks_of(truth).pixels)
        assert scores_by_name(pixel_track_scores(prediction, truth))[name].value == wanted


def test_undefined_scores_give_a_reason() -> None:
    prediction, truth = random_scenes(0)
    assert pixel_track_scores(prediction, replace(truth, tracks=None)) == ()
    for score in pixel_track_scores(replace(prediction, tracks=None), truth):
        assert math.isnan(score.value)
        assert score.note == "no tracks were predicted"
        assert score.total > 0
    nothing_known = with_tracks(truth, confidence=torch.zeros(2, 6, 7))
    for score in pixel_track_scores(prediction, nothing_known):
        assert (score.note, score.total) == ("no true track is known at its anchor", 0)
    at_the_end = with_tracks(truth, anchors=torch.tensor([5, 5]))
    for score in pixel_track_scores(prediction, at_the_end):
        assert (score.note, score.total) == ("no true track is known after its anchor", 0)
    hidden = scores_by_name(pixel_track_scores(prediction, with_tracks(truth, visibility=torch.zeros(2, 6, 7))))
    for name in ("delta_avg", "average_jaccard"):
        assert hidden[name].note == "no true track is visible after its anchor"
        assert hidden[name].total == 0
    assert not math.isnan(hidden["occlusion_accuracy"].value)
    elsewhere = scores_by_name(pixel_track_scores(with_tracks(prediction, anchors=torch.tensor([1, 2])), truth))
    assert math.isnan(elsewhere.pop("median_trajectory_error").value)
    assert {score.value for score in elsewhere.values()} == {0}
