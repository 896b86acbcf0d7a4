"""Depth metrics: cases by hand, NumPy and invariances."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from depth_scenes import noisy, partly_known, values, with_depths
from scenes import make_scene
from scored import scores_by_name

from recon4d.eval.alignment.depth import l1_scale_and_shift
from recon4d.eval.metrics.depth import depth_scores
from recon4d.eval.pairing import pair_with_truth
from recon4d.eval.protocols.video_depth import video_depth_scores

BOTH = [depth_scores, lambda prediction, truth: video_depth_scores(prediction, truth, None)]

OVER_SCALE = ("abs_rel", "sq_rel", "rmse", "log_rmse", "delta_1", "delta_2", "delta_3")


def test_scores_are_in_the_order_of_their_metrics() -> None:
    truth = make_scene()
    assert [s.metric for s in depth_scores(noisy(truth), truth)] == [m.name for m in depth_scores.metrics]
    assert [s.metric for s in video_depth_scores(noisy(truth), truth, None)] == [
        m.name for m in video_depth_scores.metrics
    ]
    for metric in (*depth_scores.metrics, *video_depth_scores.metrics):
        is_share = "delta" in metric.name or metric.name == "depth_coverage"
        assert metric.worst == (0.0 if is_share else None)
        assert metric.better == ("higher" if is_share else "lower")
        assert metric.is_pooled == metric.name.startswith("video_depth")
        assert metric.unit == (
            "share" if is_share else {"sq": "m", "rm": "m", "lo": "log"}.get(metric.name[:2], metric.unit)
        )


def test_errors_of_four_pixels_computed_by_hand() -> None:
    """The lower medians are 2 and 1, so P becomes 1.9, 2, 4, 12 for G = 1, 2, 4, 8; a fifth pixel is not predicted."""
    truth = with_depths([1.0, 2.0, 4.0, 8.0, 3.0], metres_per_unit=1.0)
    prediction = with_depths([0.95, 1.0, 2.0, 6.0])
    found = values(depth_scores(prediction, truth))
    assert found["abs_rel"] == pytest.approx((0.9 + 0.5) / 4)
    assert found["sq_rel"] == pytest.approx((0.81 + 2) / 4)
    assert found["rmse"] == pytest.approx(math.sqrt((0.81 + 16) / 4))
    assert found["log_rmse"] == pytest.approx(math.sqrt((math.log(1.9) ** 2 + math.log(1.5) ** 2) / 4))
    assert (found["delta_1"], found["delta_2"], found["delta_3"]) == (0.5, 0.75, 1.0)
    assert found["depth_coverage"] == pytest.approx(0.8)
    scores = scores_by_name(depth_scores(prediction, truth))
    for name in (*OVER_SCALE, "abs_rel_scale_shift"):
        assert (scores[name].count, scores[name].total, scores[name].note) == (4, 5, "")
        assert scores[name].alignment == ("L1 scale and shift" if "shift" in name else "median scale")
    assert (scores["depth_coverage"].count, scores["depth_coverage"].alignment) == (5, "none")


def test_threshold_accuracy_is_exclusive() -> None:
    """Three pixels keep the scale at 1; the fourth is off by exactly 1.25, or its square or cube."""
    for name, factor in (("delta_1", 1.25), ("delta_2", 1.25**2), ("delta_3", 1.25**3)):
        for depth in (4 * factor, 4 / factor):
            truth, prediction = with_depths([4.0, 4.0, 4.0, 4.0]), with_depths([4.0, 4.0, 4.0, depth])
            inside = with_depths([4.0, 4.0, 4.0, 4 + 0.999 * (depth - 4)])
            assert values(depth_scores(inside, truth))[name] == 1
            if depth > 4:  # Its inverse is not exact in float32.
                assert values(depth_scores(prediction, truth))[name] == 0.75


def test_a_shifted_prediction_is_perfect_only_after_scale_and_shift() -> None:
    truth = with_depths([1.0, 2.0, 4.0, 8.0])
    found = values(depth_scores(with_depths([1.5, 2.0, 3.0, 5.0]), truth))
    assert found["abs_rel_scale_shift"] == pytest.approx(0, abs=1e-9)
    assert found["abs_rel"] > 0.1


@pytest.mark.parametrize("seed", range(2))
def test_scores_equal_numpy(seed: int) -> None:
    truth = partly_known(make_scene(), seed)
    prediction = noisy(make_scene(), seed + 10)
    scores = depth_scores(prediction, truth)
    valid = (truth.depth_confidence.numpy() > 0) & (prediction.depth_confidence.numpy() > 0)
    p, g = prediction.depths.numpy()[valid].astype(float), truth.depths.numpy()[valid].astype(float)
    lower = (len(p) - 1) // 2
    line = l1_scale_and_shift(torch.from_numpy(p), torch.from_numpy(g))
    shifted = np.maximum(line.scale * p + line.shift, 1e-5 * np.sort(g)[lower])
    p = p * np.sort(g)[lower] / np.sort(p)[lower]
    ratio = np.maximum(p / g, g / p)
    expected = {
        "abs_rel": np.mean(abs(p - g) / g),
        "sq_rel": np.mean((p - g) ** 2 / g),
        "rmse": np.sqrt(np.mean((p - g) ** 2)),
        "log_rmse": np.sqrt(np.mean((np.log(p) - np.log(g)) ** 2)),
        "delta_1": np.mean(ratio < 1.25),
        "delta_2": np.mean(ratio < 1.25**2),
        "delta_3": np.mean(ratio < 1.25**3),
        "abs_rel_scale_shift": np.mean(abs(shifted - g) / g),
        "depth_coverage": valid.sum() / (truth.depth_confidence.numpy() > 0).sum(),
    }
    assert values(scores) == pytest.approx(expected, rel=1e-12)
    assert {score.count for score in scores[:-1]} == {valid.sum()}


def test_negative_depths_are_errors_although_their_ratios_are_small() -> None:
    """max(P / G, G / P) of a negative P is below 1.25 unless P is clamped. The relative error is not clamped."""
    truth = with_depths([1.0, 1.0, 1.0, 1.0])
    prediction = with_depths([1.0, 1.0, 1.0, -1.0])
    found = values(depth_scores(prediction, truth))
    assert (found["delta_1"], found["delta_3"]) == (0.75, 0.75)
    assert found["abs_rel"] == pytest.approx(2 / 4)
    assert found["log_rmse"] == pytest.approx(abs(math.log(1e-5)) / 2, rel=1e-6)
    found = values(video_depth_scores(prediction, truth, None))
    assert found["video_depth_delta_1_scale"] == 0.75
    assert found["video_depth_abs_rel_scale"] == pytest.approx(2 / 4, abs=1e-3)


def test_negative_depths_after_scale_and_shift_are_clamped() -> None:
    """Twelve pixels determine the line P - 4; the last becomes -3 and is clamped to 1e-5 of the median depth, 3."""
    truth = with_depths([1.0, 2.0, 3.0, 4.0] * 3 + [4.0])
    prediction = with_depths([5.0, 6.0, 7.0, 8.0] * 3 + [1.0])
    found = values(depth_scores(prediction, truth))
    assert found["abs_rel_scale_shift"] == pytest.approx((4 - 3e-5) / 4 / 13, rel=1e-9)


def test_only_lengths_depend_on_the_unit_of_the_truth() -> None:
    prediction, unknown = noisy(make_scene()), make_scene()
    known = replace(unknown, metres_per_unit=torch.tensor(2.5))
    in_meters, in_units = (
        scores_by_name(depth_scores(prediction, known)),
        scores_by_name(depth_scores(prediction, unknown)),
    )
    for metric in depth_scores.metrics:
        factor = 2.5 if metric.unit == "m" else 1.0
        assert in_meters[metric.name].value == pytest.approx(factor * in_units[metric.name].value, rel=1e-9)
        assert in_meters[metric.name].note == ""
        assert ("not known in meters" in in_units[metric.name].note) == (metric.unit == "m")


@pytest.mark.parametrize("meters", [0.0, -1.0, float("inf")])
def test_a_unit_without_valid_length_is_unknown(meters: float) -> None:
    truth = replace(make_scene(), metres_per_unit=torch.tensor(meters))
    assert depth_scores(noisy(truth), truth) == depth_scores(noisy(truth), make_scene())


@pytest.mark.parametrize("scores_of", BOTH)
def test_scores_do_not_depend_on_the_order_of_frames_and_on_unknown_pixels(scores_of) -> None:
    truth, prediction = partly_known(make_scene()), noisy(make_scene())
    expected = values(scores_of(prediction, truth))
    order = [2, 0, 1]
    assert values(scores_of(prediction.frames(order), truth.frames(order))) == pytest.approx(expected, rel=1e-6)
    known = prediction.depth_confidence > 0
    changed = replace(prediction, depths=torch.where(known, prediction.depths, torch.inf))
    assert values(scores_of(changed, truth)) == expected


def test_all_frames_share_one_scale() -> None:
    """Frames that are correct only up to a scale of their own have errors."""
    truth = make_scene()
    uneven = replace(truth, depths=truth.depths * torch.tensor([1.0, 2.0, 4.0])[:, None, None])
    assert values(depth_scores(uneven, truth))["abs_rel"] > 0.4
    assert values(video_depth_scores(uneven, truth, None))["video_depth_abs_rel_scale"] > 0.4


def test_predictions_of_another_size_are_scored_after_pairing() -> None:
    truth = make_scene()
    prediction = pair_with_truth(truth.resized(24, 32), truth)
    assert values(depth_scores(prediction, truth))["abs_rel"] < 0.01


@pytest.mark.parametrize("scores_of", BOTH)
def test_a_truth_without_depth_has_no_scores(scores_of) -> None:
    assert scores_of(make_scene(), with_depths([])) == ()


@pytest.mark.parametrize("scores_of", BOTH)
def test_without_predicted_depth_scores_are_undefined_and_the_coverage_is_zero(scores_of) -> None:
    scores = scores_of(with_depths([]), make_scene())
    assert len(scores) == (9 if scores_of is depth_scores else 5)
    for score in scores:
        assert score.total == 3 * 12 * 16
        if score.metric == "depth_coverage":
            assert (score.value, score.count, score.note) == (0.0, score.total, "")
        else:
            assert math.isnan(score.value)
            assert (score.count, score.note) == (0, "the prediction has no depth at pixels with known true depth")


def test_without_a_positive_median_depth_there_is_no_scale() -> None:
    truth, prediction = with_depths([1.0, 2.0, 3.0, 4.0]), with_depths([-4.0, -3.0, 0.0, 9.0])
    scores = scores_by_name(depth_scores(prediction, truth))
    for name in OVER_SCALE:
        assert math.isnan(scores[name].value)
        assert scores[name].note == "no scale: the median predicted depth is -3, not above 0"
        assert scores[name].alignment == "median scale"
    assert scores["abs_rel_scale_shift"].value < 1
    assert scores["depth_coverage"].value == 1
    assert math.isnan(values(depth_scores(with_depths([-1.0, 0.0, 2.0, 3.0]), truth))["abs_rel"])
    for given in ([-1.0, -1.0, 0.0, 9.0], [1.0, 1.0, 1.0, -9.0], [-1.0, 0.0, 2.0, 3.0], [-9.0, 1.0, 4.0, 4.0]):
        undefined = video_depth_scores(with_depths(given), truth, None)
        assert [score.metric for score in undefined] == [metric.name for metric in video_depth_scores.metrics]
        assert all(math.isnan(score.value) and "no scale" in score.note and score.total == 4 for score in undefined)


@pytest.mark.parametrize("scores_of", BOTH)
@pytest.mark.parametrize("depth", [0.0, -1.0, torch.nan, torch.inf])
def test_known_true_depths_must_be_finite_and_positive(scores_of, depth: float) -> None:
    with pytest.raises(ValueError, match="1 true depths with a confidence above 0 are not finite and above 0"):
        scores_of(make_scene(), with_depths([1.0, depth]))
