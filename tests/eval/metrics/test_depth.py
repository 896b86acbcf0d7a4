"""Scores of depth, the project's own and the published ones, by hand and against plain numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import make_scene
from scored import scores_by_name

from recon4d.eval.alignment.depth import l1_scale_and_shift
from recon4d.eval.metrics.depth import DEPTH_METRICS, depth_scores
from recon4d.eval.metrics.score import Score
from recon4d.eval.pairing import pair_with_truth
from recon4d.eval.protocols.video_depth import VIDEO_DEPTH_METRICS, video_depth_scores
from recon4d.records import Scene

BOTH = [depth_scores, lambda prediction, truth: video_depth_scores(prediction, truth, None)]
OVER_SCALE = ("abs_rel", "sq_rel", "rmse", "log_rmse", "delta_1", "delta_2", "delta_3")


def with_depths(values: list[float], metres_per_unit: float = torch.nan) -> Scene:
    """A scene of which only the first pixels of the last frame are known, at these depths; the rest is wild."""
    scene = make_scene(metres_per_unit=metres_per_unit)
    depths, confidence = torch.full_like(scene.depths, torch.nan), torch.zeros_like(scene.depths)
    depths[-1].view(-1)[: len(values)] = torch.tensor(values)
    confidence[-1].view(-1)[: len(values)] = 1
    return replace(scene, depths=depths, depth_confidence=confidence)


def noisy(truth: Scene, seed: int = 0) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.exp(0.3 * torch.randn(truth.depths.shape, generator=generator))
    believed = torch.rand(truth.depths.shape, generator=generator) > 0.2
    return replace(truth, depths=0.7 * truth.depths * noise - 0.2, depth_confidence=3.5 * believed)


def partly_known(truth: Scene, seed: int = 5) -> Scene:
    known = torch.rand(truth.depths.shape, generator=torch.Generator().manual_seed(seed)) > 0.3
    return replace(
        truth, depths=torch.where(known, truth.depths, torch.nan), depth_confidence=known.to(truth.depths.dtype)
    )


def values(scores: tuple[Score, ...]) -> dict[str, float]:
    return {score.metric: score.value for score in scores}


# Perfect, by hand, by numpy


def test_truth_against_itself_is_perfect() -> None:
    truth = partly_known(make_scene())
    count = int(truth.depth_confidence.sum())
    for scores in (depth_scores(truth, truth), video_depth_scores(truth, truth, 70.0)):
        for score in scores:
            is_share = "delta" in score.metric or score.metric == "depth_coverage"
            assert score.value == pytest.approx(1.0 if is_share else 0.0, abs=1e-6)
            assert (score.count, score.total) == (count, count)


def test_every_metric_is_answered_in_its_order() -> None:
    truth = make_scene()
    assert [s.metric for s in depth_scores(noisy(truth), truth)] == [m.name for m in DEPTH_METRICS]
    assert [s.metric for s in video_depth_scores(noisy(truth), truth, None)] == [m.name for m in VIDEO_DEPTH_METRICS]
    for metric in (*DEPTH_METRICS, *VIDEO_DEPTH_METRICS):
        is_share = "delta" in metric.name or metric.name == "depth_coverage"
        assert metric.worst == (0.0 if is_share else None)
        assert metric.better == ("higher" if is_share else "lower")
        assert metric.is_pooled == metric.name.startswith("video_depth")
        assert metric.unit == (
            "share" if is_share else {"sq": "m", "rm": "m", "lo": "log"}.get(metric.name[:2], metric.unit)
        )


def test_four_pixels_are_as_on_paper() -> None:
    """The lower medians are 2 and 1, so that P becomes 1.9, 2, 4, 12 against 1, 2, 4, 8; a fifth pixel is not told."""
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


def test_ratios_on_the_bound_do_not_count() -> None:
    """Three pixels hold the scale at 1; the fourth is off by exactly 1.25, or its square or cube."""
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


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_plain_numpy(seed: int) -> None:
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


def published(prediction: Scene, truth: Scene, max_depth: float | None) -> dict[str, float]:
    """The protocol written down once more: masks, Weiszfeld, Adam, clips and means, in numpy."""
    g = truth.depths.numpy().astype(float)
    mask = (truth.depth_confidence.numpy() > 0) & (g > 0) & (prediction.depth_confidence.numpy() > 0)
    if max_depth is not None:
        mask &= g < max_depth
    p, g = prediction.depths.numpy().astype(float)[mask], g[mask]
    s = np.mean(g) / np.mean(p)
    for _ in range(10):
        w = 1 / (np.abs(s * p - g) + 1e-8)
        s = np.sum(w * p * g) / np.sum(w * p * p)
    by_scale = max(s, 1e-3) * p
    lower = (len(p) - 1) // 2
    x, m, v, last = np.array([np.sort(g)[lower] / np.sort(p)[lower], 0.0]), np.zeros(2), np.zeros(2), None
    for step in range(1, 1001):
        r = x[0] * p + x[1] - g
        loss, gradient = np.abs(r).sum(), np.array([np.sum(np.sign(r) * p), np.sum(np.sign(r))])
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        x = x - 1e-4 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        if last is not None and abs(last - loss) < 1e-6:
            break
        last = loss
    results = {}
    for name, aligned in (("scale", by_scale), ("scale_shift", x[0] * p + x[1])):
        clipped = aligned if max_depth is None else np.minimum(aligned, max_depth)
        results[f"video_depth_abs_rel_{name}"] = np.mean(abs(clipped - g) / g)
        if name == "scale":
            results["video_depth_rmse_scale"] = np.sqrt(np.mean((clipped - g) ** 2))
        floored = np.maximum(clipped, 1e-5)
        results[f"video_depth_delta_1_{name}"] = np.mean(np.maximum(floored / g, g / floored) < 1.25)
    return results


@pytest.mark.parametrize("max_depth", [None, 4.5, 70.0])
def test_video_depth_is_the_published_protocol(max_depth: float | None) -> None:
    truth, prediction = partly_known(make_scene()), noisy(make_scene(), 3)
    scores = video_depth_scores(prediction, truth, max_depth)
    assert values(scores) == pytest.approx(published(prediction, truth, max_depth), rel=1e-9)
    assert [score.alignment for score in scores] == ["L1 scale by Weiszfeld"] * 3 + ["L1 scale and shift by Adam"] * 2


def test_far_pixels_are_left_out_and_far_predictions_brought_to_the_bound() -> None:
    """Of 1, 2, 4, 8 at a bound of 8 three are left; the last of them, at 40 predicted, is clipped from 40 to 8."""
    truth, prediction = with_depths([1.0, 2.0, 4.0, 8.0]), with_depths([1.0, 2.0, 40.0, 1.0])
    found = scores_by_name(video_depth_scores(prediction, truth, 8.0))
    scale = found["video_depth_abs_rel_scale"]
    assert (scale.count, scale.total) == (3, 3)
    # The L1 scale is 0.1, by the weight of the far pixel: 0.1, 0.2, 4.
    assert scale.value == pytest.approx((0.9 + 0.9 + 0) / 3, abs=1e-3)
    # From median 2 / 2 Adam goes down by about a tenth a thousand steps: the third stays above 8 and is clipped to it.
    shift = found["video_depth_abs_rel_scale_shift"]
    assert shift.value == pytest.approx(published(prediction, truth, 8.0)["video_depth_abs_rel_scale_shift"])
    assert 1.0 / 3 < shift.value < 1.5 / 3


def test_depths_below_nothing_are_no_hits_though_their_ratios_are_small() -> None:
    """max(P / G, G / P) of a negative P is negative and below 1.25; the floor makes it a miss, the error is kept."""
    truth = with_depths([1.0, 1.0, 1.0, 1.0])
    prediction = with_depths([1.0, 1.0, 1.0, -1.0])
    found = values(depth_scores(prediction, truth))
    assert (found["delta_1"], found["delta_3"]) == (0.75, 0.75)
    assert found["abs_rel"] == pytest.approx(2 / 4)
    assert found["log_rmse"] == pytest.approx(abs(math.log(1e-5)) / 2, rel=1e-6)
    found = values(video_depth_scores(prediction, truth, None))
    assert found["video_depth_delta_1_scale"] == 0.75
    assert found["video_depth_abs_rel_scale"] == pytest.approx(2 / 4, abs=1e-3)


def test_a_line_that_goes_below_nothing_is_brought_up_to_the_floor() -> None:
    """Twelve pixels hold the line P - 4; the last falls to -3 and is brought to 1e-5 of the median true depth, 3."""
    truth = with_depths([1.0, 2.0, 3.0, 4.0] * 3 + [4.0])
    prediction = with_depths([5.0, 6.0, 7.0, 8.0] * 3 + [1.0])
    found = values(depth_scores(prediction, truth))
    assert found["abs_rel_scale_shift"] == pytest.approx((4 - 3e-5) / 4 / 13, rel=1e-9)


# Invariances and units


def test_the_own_scores_do_not_depend_on_the_unit_of_the_prediction() -> None:
    truth, prediction = make_scene(), noisy(make_scene())
    scaled = replace(prediction, depths=8 * prediction.depths)
    assert values(depth_scores(scaled, truth)) == pytest.approx(values(depth_scores(prediction, truth)), rel=1e-9)
    in_meters = replace(prediction, metres_per_unit=torch.tensor(7.0))
    assert depth_scores(in_meters, truth) == depth_scores(prediction, truth)


def test_lengths_are_in_meters_where_they_are_known_and_shares_never_change() -> None:
    prediction, unknown = noisy(make_scene()), make_scene()
    known = replace(unknown, metres_per_unit=torch.tensor(2.5))
    in_meters, in_units = scores_by_name(depth_scores(prediction, known)), scores_by_name(depth_scores(prediction, unknown))
    for metric in DEPTH_METRICS:
        factor = 2.5 if metric.unit == "m" else 1.0
        assert in_meters[metric.name].value == pytest.approx(factor * in_units[metric.name].value, rel=1e-9)
        assert in_meters[metric.name].note == ""
        assert ("not known in meters" in in_units[metric.name].note) == (metric.unit == "m")


@pytest.mark.parametrize("meters", [0.0, -1.0, float("inf")])
def test_a_unit_of_no_length_is_an_unknown_one(meters: float) -> None:
    truth = replace(make_scene(), metres_per_unit=torch.tensor(meters))
    assert depth_scores(noisy(truth), truth) == depth_scores(noisy(truth), make_scene())


def test_the_bound_of_video_depth_is_in_meters_and_the_prediction_is_taken_as_it_was_made() -> None:
    """Adam's answer depends on the prediction's unit, which the truth's must not change."""
    truth, prediction = make_scene(), noisy(make_scene())
    in_feet = replace(truth, depths=truth.depths / 0.25, metres_per_unit=torch.tensor(0.25))
    in_meters = replace(truth, metres_per_unit=torch.tensor(1.0))
    assert video_depth_scores(prediction, in_feet, 4.0) == video_depth_scores(prediction, in_meters, 4.0)
    unknown = scores_by_name(video_depth_scores(prediction, truth, 4.0))
    assert values(tuple(unknown.values())) == values(video_depth_scores(prediction, in_meters, 4.0))
    for name, score in unknown.items():
        assert ("not known in meters" in score.note) == ("rmse" in name)


@pytest.mark.parametrize("scores_of", BOTH)
def test_the_order_of_frames_and_what_lies_at_unknown_pixels_change_nothing(scores_of) -> None:
    truth, prediction = partly_known(make_scene()), noisy(make_scene())
    expected = values(scores_of(prediction, truth))
    order = [2, 0, 1]
    assert values(scores_of(prediction.frames(order), truth.frames(order))) == pytest.approx(expected, rel=1e-6)
    known = prediction.depth_confidence > 0
    wild = replace(prediction, depths=torch.where(known, prediction.depths, torch.inf))
    assert values(scores_of(wild, truth)) == expected


def test_one_scale_serves_all_frames() -> None:
    """Each frame right by a scale of its own is not right."""
    truth = make_scene()
    uneven = replace(truth, depths=truth.depths * torch.tensor([1.0, 2.0, 4.0])[:, None, None])
    assert values(depth_scores(uneven, truth))["abs_rel"] > 0.4
    assert values(video_depth_scores(uneven, truth, None))["video_depth_abs_rel_scale"] > 0.4


def test_predictions_of_another_size_are_scored_once_paired() -> None:
    truth = make_scene()
    prediction = pair_with_truth(truth.resized(24, 32), truth)
    assert values(depth_scores(prediction, truth))["abs_rel"] < 0.01


# Degenerate input


@pytest.mark.parametrize("scores_of", BOTH)
def test_a_truth_without_depth_has_no_scores(scores_of) -> None:
    assert scores_of(make_scene(), with_depths([])) == ()


def test_a_truth_beyond_the_bound_has_no_scores() -> None:
    assert video_depth_scores(make_scene(), make_scene(), 0.5) == ()


@pytest.mark.parametrize("scores_of", BOTH)
def test_a_prediction_that_knows_nothing_is_undefined_and_covers_nothing(scores_of) -> None:
    scores = scores_of(with_depths([]), make_scene())
    assert len(scores) == (9 if scores_of is depth_scores else 5)
    for score in scores:
        assert score.total == 3 * 12 * 16
        if score.metric == "depth_coverage":
            assert (score.value, score.count, score.note) == (0.0, score.total, "")
        else:
            assert math.isnan(score.value)
            assert (score.count, score.note) == (0, "the prediction knows no depth where the truth does")


def test_a_prediction_behind_the_camera_has_no_median_scale_and_says_so() -> None:
    truth, prediction = with_depths([1.0, 2.0, 3.0, 4.0]), with_depths([-4.0, -3.0, 0.0, 9.0])
    own = scores_by_name(depth_scores(prediction, truth))
    for name in OVER_SCALE:
        assert math.isnan(own[name].value)
        assert own[name].note == "no scale: the median predicted depth is -3"
        assert own[name].alignment == "median scale"
    assert own["abs_rel_scale_shift"].value < 1
    assert own["depth_coverage"].value == 1
    assert math.isnan(values(depth_scores(with_depths([-1.0, 0.0, 2.0, 3.0]), truth))["abs_rel"])
    for given in ([-1.0, -1.0, 0.0, 9.0], [1.0, 1.0, 1.0, -9.0], [-1.0, 0.0, 2.0, 3.0], [-9.0, 1.0, 4.0, 4.0]):
        scores = video_depth_scores(with_depths(given), truth, None)
        assert [score.metric for score in scores] == [metric.name for metric in VIDEO_DEPTH_METRICS]
        assert all(math.isnan(score.value) and "no scale" in score.note and score.total == 4 for score in scores)


@pytest.mark.parametrize("scores_of", BOTH)
@pytest.mark.parametrize("depth", [0.0, -1.0, torch.nan, torch.inf])
def test_a_truth_that_claims_impossible_depths_is_refused(scores_of, depth: float) -> None:
    with pytest.raises(ValueError, match="not finite and above 0 at 1 pixels said to be known"):
        scores_of(make_scene(), with_depths([1.0, depth]))


@pytest.mark.parametrize("max_depth", [0.0, -1.0, float("nan")])
def test_a_bound_must_leave_something(max_depth: float) -> None:
    with pytest.raises(ValueError, match="leaves nothing"):
        video_depth_scores(make_scene(), make_scene(), max_depth)
