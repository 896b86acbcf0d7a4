"""Tests of dynamic mask metrics: hand-computed cases, a naive loop and unknown pixels."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import make_scene
from torch import Tensor

from recon4d.eval.metrics.dynamic_mask import dynamic_mask_scores, intersection_over_union
from recon4d.eval.metrics.score import Score
from recon4d.records import Scene


def with_dynamic(probability: Tensor) -> Scene:
    """Create a scene with dynamic probabilities at the first pixels of each frame; all others are unknown."""
    scene = make_scene(len(probability))
    full = torch.full_like(scene.depths, torch.nan)
    full[:, 0, : probability.shape[1]] = probability
    return dataclasses.replace(scene, dynamic=full)


def scores_of(prediction: list[list[float]], truth: list[list[float]]) -> dict[str, Score]:
    """Compute the scores of masks given as a few pixels per frame; all other pixels are unknown."""
    scores = dynamic_mask_scores(with_dynamic(torch.tensor(prediction)), with_dynamic(torch.tensor(truth)))
    return {score.metric: score for score in scores}


def test_masks_computed_by_hand() -> None:
    truth = [[1.0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    prediction = [[0.9, 0.6, 0, 0], [0.7, 0, 0, 0], [1, 0, 0.8, 0.5]]
    scores = scores_of(prediction, truth)
    # IoU per frame: 2 of 3, 1 of 3 (the second frame has no true dynamic pixels); over the clip 3 of 7.
    assert scores["moving_iou"].value == pytest.approx(3 / 7)
    assert scores["moving_iou_frames"].value == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert scores["moving_recall_frames"].value == 1 / 2
    # One pixel is wrong in the first frame, one in the second, two in the third.
    assert scores["moving_accuracy"].value == pytest.approx(8 / 12)
    assert [(score.count, score.total) for score in scores.values()] == [(12, 12), (2, 2), (2, 2), (12, 12)]


def test_thresholds_of_overlap_and_probability_are_exclusive() -> None:
    scores = scores_of([[1.0, 0.5]], [[1.0, 1]])
    assert scores["moving_iou_frames"].value == 0.5
    assert scores["moving_recall_frames"].value == 0
    assert with_dynamic(torch.tensor([[0.5, 0.51, torch.nan]])).is_dynamic[0, 0, :3].tolist() == [False, True, False]


def test_pixels_with_unknown_truth_do_not_count() -> None:
    scores = scores_of([[1.0, 1, 1], [1, 1, 1]], [[1.0, torch.nan, 0], [torch.nan, torch.nan, torch.nan]])
    assert scores["moving_iou"].value == 0.5
    assert scores["moving_accuracy"].value == 0.5
    assert scores["moving_accuracy"].total == 2


def test_pixels_without_prediction_count_as_static_and_a_note_states_their_number() -> None:
    scores = scores_of([[1.0, torch.nan, torch.nan, 0]], [[1.0, 1, 0, 0]])
    assert scores["moving_iou"].value == 0.5
    assert scores["moving_accuracy"].value == 3 / 4
    assert scores["moving_accuracy"].note == "2 of 4 pixels have no predicted dynamic probability and count as static"
    static = scores_of([[0.0, torch.nan]], [[0.0, 0]])
    assert static["moving_iou"].note.startswith("neither prediction nor truth has dynamic pixels; 1 of 2")


def test_without_predicted_mask_scores_are_undefined() -> None:
    scores = scores_of([[torch.nan, torch.nan]], [[1.0, 0]])
    assert all(math.isnan(score.value) and score.total == 2 for score in scores.values())
    assert scores["moving_iou"].note == "the prediction has no dynamic mask"


def test_without_true_mask_there_are_no_scores() -> None:
    assert scores_of([[1.0, 0]], [[torch.nan, torch.nan]]) == {}


def test_without_dynamic_pixels_overlap_is_undefined_and_a_false_positive_is_zero() -> None:
    static = scores_of([[0.0, 0.2]], [[0.0, 0]])
    assert math.isnan(static["moving_iou"].value)
    assert math.isnan(static["moving_iou_frames"].value)
    assert math.isnan(static["moving_recall_frames"].value)
    assert static["moving_accuracy"].value == 1
    false_positive = scores_of([[0.0, 0.9]], [[0.0, 0]])
    assert false_positive["moving_iou"].value == 0
    assert false_positive["moving_iou_frames"].note == "the truth has no dynamic pixels"
    assert false_positive["moving_accuracy"].value == 0.5


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_scores_equal_a_loop_over_pixels(seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    truth = (generator.random((3, 8)) < share).astype(np.float32)
    truth[generator.random((3, 8)) < 0.1] = np.nan
    prediction = generator.random((3, 8)).astype(np.float32)
    prediction[generator.random((3, 8)) < 0.1] = np.nan
    scores = scores_of(prediction.tolist(), truth.tolist())
    overlaps, both, either, correct, known = [], 0, 0, 0, 0
    for t in range(3):
        frame_both = frame_either = frame_true = 0
        for i in range(8):
            if not np.isnan(truth[t, i]):
                p, g = bool(prediction[t, i] > 0.5), truth[t, i] == 1
                frame_both, frame_either, frame_true = frame_both + (p and g), frame_either + (p or g), frame_true + g
                correct, known = correct + (p == g), known + 1
        both, either = both + frame_both, either + frame_either
        if frame_true:
            overlaps.append(frame_both / frame_either)
    assert scores["moving_accuracy"].value == pytest.approx(correct / known)
    if either:
        assert scores["moving_iou"].value == pytest.approx(both / either)
    if overlaps:
        assert scores["moving_iou_frames"].value == pytest.approx(np.mean(overlaps))
        assert scores["moving_recall_frames"].value == pytest.approx(np.mean(np.array(overlaps) > 0.5))


def test_overlap_of_empty_masks_is_nan() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert intersection_over_union(nothing, nothing).isnan().all()
