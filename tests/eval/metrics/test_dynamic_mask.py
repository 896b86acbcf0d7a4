"""The moving mask against the truth: cases on paper, a slow twin, and what happens where nothing is told."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import make_scene
from torch import Tensor

from recon4d.eval.metrics.dynamic_mask import (
    MOVING_METRICS,
    dynamic_mask_scores,
    intersection_over_union,
    is_dynamic,
)
from recon4d.eval.metrics.score import Score
from recon4d.records import Scene


def with_moving(moving: Tensor) -> Scene:
    scene = make_scene(len(moving))
    full = torch.full_like(scene.depths, torch.nan)
    full[:, 0, : moving.shape[1]] = moving
    return dataclasses.replace(scene, dynamic=full)


def scores_of(prediction: list[list[float]], truth: list[list[float]]) -> dict[str, Score]:
    """The scores of masks given as a few pixels for each frame; all others are not told."""
    scores = dynamic_mask_scores(with_moving(torch.tensor(prediction)), with_moving(torch.tensor(truth)))
    return {score.metric: score for score in scores}


def test_truth_against_itself_is_perfect() -> None:
    truth = [[1.0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
    scores = scores_of(truth, truth)
    assert list(scores) == [metric.name for metric in MOVING_METRICS]
    assert {score.value for score in scores.values()} == {1.0}
    assert {score.note for score in scores.values()} == {""}
    assert {metric.worst for metric in MOVING_METRICS} == {0.0}


def test_masks_on_paper() -> None:
    truth = [[1.0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    prediction = [[0.9, 0.6, 0, 0], [0.7, 0, 0, 0], [1, 0, 0.8, 0.5]]
    scores = scores_of(prediction, truth)
    # Frames: 2 of 3, (0 of 1, but nothing truly moves), 1 of 3; together 3 of 7.
    assert scores["moving_iou"].value == pytest.approx(3 / 7)
    assert scores["moving_iou_frames"].value == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert scores["moving_recall_frames"].value == 1 / 2
    # Wrong: one pixel in the first frame, one in the second, two in the third.
    assert scores["moving_accuracy"].value == pytest.approx(8 / 12)
    assert [(score.count, score.total) for score in scores.values()] == [(12, 12), (2, 2), (2, 2), (12, 12)]


def test_an_overlap_of_one_half_is_not_found_and_a_probability_of_one_half_does_not_move() -> None:
    scores = scores_of([[1.0, 0.5]], [[1.0, 1]])
    assert scores["moving_iou_frames"].value == 0.5
    assert scores["moving_recall_frames"].value == 0
    assert is_dynamic(torch.tensor([[[0.5, 0.51, torch.nan]]])).tolist() == [[[False, True, False]]]


def test_pixels_of_which_the_truth_says_nothing_do_not_count() -> None:
    scores = scores_of([[1.0, 1, 1], [1, 1, 1]], [[1.0, torch.nan, 0], [torch.nan, torch.nan, torch.nan]])
    assert scores["moving_iou"].value == 0.5
    assert scores["moving_accuracy"].value == 0.5
    assert scores["moving_accuracy"].total == 2


def test_what_the_prediction_does_not_tell_does_not_move_and_is_counted() -> None:
    scores = scores_of([[1.0, torch.nan, torch.nan, 0]], [[1.0, 1, 0, 0]])
    assert scores["moving_iou"].value == 0.5
    assert scores["moving_accuracy"].value == 3 / 4
    assert scores["moving_accuracy"].note == "2 of 4 pixels are not told by the prediction and count as not moving"
    still = scores_of([[0.0, torch.nan]], [[0.0, 0]])
    assert still["moving_iou"].note.startswith("nothing moves, neither in the prediction nor in the truth; 1 of 2")


def test_a_prediction_that_tells_nothing_is_undefined() -> None:
    scores = scores_of([[torch.nan, torch.nan]], [[1.0, 0]])
    assert all(math.isnan(score.value) and score.total == 2 for score in scores.values())
    assert scores["moving_iou"].note == "the prediction tells nothing"


def test_a_truth_that_tells_nothing_has_no_scores() -> None:
    assert scores_of([[1.0, 0]], [[torch.nan, torch.nan]]) == {}


def test_where_nothing_moves_overlap_is_undefined_and_a_false_alarm_is_0() -> None:
    still = scores_of([[0.0, 0.2]], [[0.0, 0]])
    assert math.isnan(still["moving_iou"].value)
    assert math.isnan(still["moving_iou_frames"].value)
    assert math.isnan(still["moving_recall_frames"].value)
    assert still["moving_accuracy"].value == 1
    alarm = scores_of([[0.0, 0.9]], [[0.0, 0]])
    assert alarm["moving_iou"].value == 0
    assert alarm["moving_iou_frames"].note == "nothing moves in the truth"
    assert alarm["moving_accuracy"].value == 0.5


def test_what_moves_and_is_never_found_is_0() -> None:
    scores = scores_of([[0.0, 0]], [[1.0, 0]])
    assert scores["moving_iou"].value == scores["moving_iou_frames"].value == scores["moving_recall_frames"].value == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_scores_are_what_a_loop_over_pixels_finds(seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    truth = (generator.random((3, 8)) < share).astype(np.float32)
    truth[generator.random((3, 8)) < 0.1] = np.nan
    prediction = generator.random((3, 8)).astype(np.float32)
    prediction[generator.random((3, 8)) < 0.1] = np.nan
    scores = scores_of(prediction.tolist(), truth.tolist())
    overlaps, both, either, right, told = [], 0, 0, 0, 0
    for t in range(3):
        frame_both = frame_either = frame_true = 0
        for i in range(8):
            if not np.isnan(truth[t, i]):
                p, g = bool(prediction[t, i] > 0.5), truth[t, i] == 1
                frame_both, frame_either, frame_true = frame_both + (p and g), frame_either + (p or g), frame_true + g
                right, told = right + (p == g), told + 1
        both, either = both + frame_both, either + frame_either
        if frame_true:
            overlaps.append(frame_both / frame_either)
    assert scores["moving_accuracy"].value == pytest.approx(right / told)
    if either:
        assert scores["moving_iou"].value == pytest.approx(both / either)
    if overlaps:
        assert scores["moving_iou_frames"].value == pytest.approx(np.mean(overlaps))
        assert scores["moving_recall_frames"].value == pytest.approx(np.mean(np.array(overlaps) > 0.5))


def test_the_order_of_frames_and_pixels_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(4, 6, generator=generator) > 0.5).float()
    prediction = torch.rand(4, 6, generator=generator)
    expected = scores_of(prediction.tolist(), truth.tolist())
    frames, pixels = torch.tensor([2, 0, 3, 1]), torch.tensor([5, 3, 1, 0, 2, 4])
    moved = scores_of(prediction[frames][:, pixels].tolist(), truth[frames][:, pixels].tolist())
    for name, score in expected.items():
        assert moved[name].value == pytest.approx(score.value)


def test_overlap_of_nothing_is_not_a_number() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert intersection_over_union(nothing, nothing).isnan().all()
