"""Metrics of 3D tracks: scores on paper, plain loops and invariances."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import make_scene
from scored import SIM3, scores_by_name, tracks_of, with_tracks
from track_scenes import by_hand, random_scenes, scene_of

from recon4d import geometry as g
from recon4d.eval.alignment.similarity import align_scale
from recon4d.eval.metrics.score import Score
from recon4d.eval.metrics.track_pairs import track_pairs
from recon4d.eval.metrics.tracks import (
    aligned_errors,
    is_dynamic_entry,
    jaccard,
    mean_share_within,
    survival_shares,
    track_scores,
)
from recon4d.records import Scene


def test_dense_static_truth_against_itself_is_perfect_and_has_no_dynamic_points() -> None:
    truth = make_scene(4, anchors=(0, 2), metres_per_unit=2.0)
    scores = scores_by_name(track_scores(truth, truth))
    assert scores["apd3d"] == Score("apd3d", 1.0, 2 * 4 * 192, 2 * 4 * 192, "median scale")
    assert scores["aj"].value == scores["survival"].value == scores["visibility_accuracy"].value == 1
    assert scores["survival"].count == 2 * 192
    for name in ("apd3d_moving", "epe_moving", "moving_epe", "static_oracle_moving_epe"):
        assert math.isnan(scores[name].value)
        assert scores[name].note == "the truth has no dynamic points"
        assert scores[name].count == scores[name].total == 0


def test_scores_computed_on_paper() -> None:
    prediction, truth = by_hand()
    scores = scores_by_name(track_scores(prediction, truth))
    # The median norm is 4 for prediction and truth: the sixth of the 11 found points. The norms of all 12 true points
    # are 4 (four times), 5 (four times), 2, 2.24, 2.83 and 3.61; one point was not found and is skipped.
    assert scores["epe"].value == pytest.approx((0.2 + 0.4 + 0.6) / 11, abs=1e-6)
    assert (scores["epe"].count, scores["epe"].total) == (11, 12)
    assert scores["apd3d"].value == pytest.approx((8 / 12 + 9 / 12 + 10 / 12 + 11 / 12) / 4)
    assert (scores["apd3d"].count, scores["apd3d"].total) == (12, 12)
    # C is displaced by more than 2 % of its depth, 0.04, in frames 1, 2 and 3.
    assert scores["apd3d_moving"].value == pytest.approx((1 + 1 + 2 + 3) / 3 / 4)
    assert scores["epe_moving"].value == pytest.approx(1.0 / 3)
    # No depth is known, so the median depth at the anchors is used: 4 (of 4, 4 and 2), which becomes 3.
    assert scores["moving_epe"].value == pytest.approx(1.0 / 3 * 3 / 4)
    assert scores["static_oracle_moving_epe"].value == pytest.approx((1 + 2 + 3) / 3 * 3 / 4)
    assert scores["static_oracle_moving_epe"].count == 3
    # A survives, B is lost at once (not found in frame 1), and C exceeds half a meter in its third later frame.
    assert scores["survival"].value == pytest.approx((1 + 0 + 2 / 3) / 3)
    # 9 entries are off the anchor. Errors: B is not found, A has a probability of 0.5, C is occluded in frame 2.
    assert scores["visibility_accuracy"].value == pytest.approx(6 / 9)
    assert scores["visibility_accuracy"].total == 9
    # 10 true points are visible. 12 - 1 (not found) - 1 (probability 0.5) - 1 (C in frame 3) = 9 points are predicted
    # to be visible, of which A in frame 3 is 0.2 off and C in frame 2 is occluded.
    assert scores["aj"].value == pytest.approx((7 / 12 + 8 / 11 * 3) / 4)


def test_distances_are_in_meters_and_undefined_shares_say_so() -> None:
    prediction, truth = by_hand()
    twice = scores_by_name(track_scores(prediction, replace(truth, metres_per_unit=torch.tensor(2.0))))
    once = scores_by_name(track_scores(prediction, truth))
    assert twice["epe"].value == pytest.approx(2 * once["epe"].value)
    assert twice["apd3d"].value == pytest.approx((8 + 8 + 9 + 10) / 12 / 4)
    assert twice["survival"].value == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert twice["moving_epe"].value == pytest.approx(once["moving_epe"].value)
    for meters in (torch.nan, torch.inf, 0.0, -1.0):
        unknown = scores_by_name(track_scores(prediction, replace(truth, metres_per_unit=torch.tensor(meters))))
        for name in ("apd3d", "apd3d_sim3", "apd3d_median_of_ratios", "apd3d_moving", "survival", "aj"):
            assert math.isnan(unknown[name].value)
            assert unknown[name].note == "the truth's unit is not known in meters"
            assert unknown[name].total == once[name].total or name == "survival"
        assert unknown["epe"].value == pytest.approx(once["epe"].value)
        assert "not known in meters" in unknown["epe"].note
        assert "not known in meters" in unknown["epe_moving"].note
        assert unknown["moving_epe"].value == pytest.approx(once["moving_epe"].value)
        assert unknown["visibility_accuracy"].value == once["visibility_accuracy"].value


def test_median_depth_of_a_clip_is_over_known_pixels_of_all_frames() -> None:
    prediction, truth = by_hand()
    depths = torch.full_like(truth.depths, 100.0)
    confidence = torch.zeros_like(depths)
    depths[0, 0, :3], depths[2, 1, :2] = 1.0, 6.0
    depths[3, 2, 0] = 7.0
    confidence[0, 0, 0], confidence[2, 1, :2], confidence[3, 2, 0] = 1, 1, 1
    scores = scores_by_name(track_scores(prediction, replace(truth, depths=depths, depth_confidence=confidence)))
    assert scores["moving_epe"].value == pytest.approx(1.0 / 3 * 3 / 6)
    assert scores["static_oracle_moving_epe"].value == pytest.approx(2 * 3 / 6)


def test_no_scores_without_true_tracks_and_only_the_oracle_without_predicted_tracks() -> None:
    prediction, truth = by_hand()
    assert track_scores(prediction, replace(truth, tracks=None)) == ()
    scores = scores_by_name(track_scores(replace(prediction, tracks=None), truth))
    assert list(scores) == [metric.name for metric in track_scores.metrics]
    for name, score in scores.items():
        if name == "static_oracle_moving_epe":
            assert score.value == pytest.approx(2 * 3 / 4)
        else:
            assert math.isnan(score.value)
            assert score.note == "no tracks were predicted"
            assert score.total > 0


def test_missing_tracks_are_errors_in_accuracy_and_undefined_in_distances() -> None:
    prediction, truth = by_hand()
    elsewhere = with_tracks(prediction, anchors=torch.tensor([1]))
    scores = scores_by_name(track_scores(elsewhere, truth))
    for name in ("apd3d", "apd3d_sim3", "apd3d_median_of_ratios", "apd3d_moving", "survival", "aj"):
        assert scores[name].value == 0
    assert scores["visibility_accuracy"].value == 0
    for name in ("epe", "epe_sim3", "epe_moving", "moving_epe"):
        assert math.isnan(scores[name].value)
        assert scores[name].note == "no predicted track could be aligned with the true queries"
    assert scores["epe"].total == 12


def test_tracks_at_the_origin_are_errors_in_accuracy_and_undefined_in_distances() -> None:
    """No scale maps points at the origin to the truth."""
    prediction, truth = by_hand()
    collapsed = with_tracks(prediction, points=torch.zeros_like(tracks_of(prediction).points))
    scores = scores_by_name(track_scores(collapsed, truth))
    for name in ("apd3d", "apd3d_median_of_ratios", "apd3d_moving", "survival", "aj"):
        assert scores[name].value == 0
    for name in ("epe", "epe_moving", "moving_epe"):
        assert math.isnan(scores[name].value)
        assert scores[name].note == "no predicted track could be aligned with the true queries"
    assert scores["visibility_accuracy"].value == pytest.approx(6 / 9)
    assert scores["epe_sim3"].value > 0


def test_queries_without_a_known_anchor_point_or_anchor_frame_are_skipped() -> None:
    prediction, truth = random_scenes(1)
    confidence = tracks_of(truth).confidence.clone()
    confidence[0, 0, 3] = 0
    pairs = track_pairs(prediction, with_tracks(truth, confidence=confidence))
    assert len(pairs.anchors) == 11
    assert pairs.anchors.tolist() == [0] * 5 + [2] * 6
    assert torch.equal(pairs.pixels[3], tracks_of(truth).pixels[0, 4])
    sliced = truth.frames([0, 1])
    assert tracks_of(sliced).anchors.tolist() == [0, -1]
    assert len(track_pairs(prediction.frames([0, 1]), sliced).anchors) == 6
    none = scores_by_name(track_scores(prediction, with_tracks(truth, confidence=torch.zeros_like(confidence))))
    assert all(math.isnan(score.value) and score.note for score in none.values())


def test_sim3_corrects_a_rotated_prediction_and_a_median_scale_does_not() -> None:
    _, truth = random_scenes(3)
    rotated = with_tracks(truth, points=g.transform_points(SIM3, tracks_of(truth).points))
    scores = scores_by_name(track_scores(rotated, truth))
    assert scores["epe_sim3"].value == pytest.approx(0, abs=1e-5)
    assert scores["apd3d_sim3"].value == 1
    assert scores["epe"].value > 0.5
    assert scores["epe_sim3"].alignment == "sim3"
    assert scores["apd3d_median_of_ratios"].alignment == "median of ratios"


@pytest.mark.parametrize("seed", range(2))
def test_scores_equal_plain_loops(seed: int) -> None:
    prediction, truth = random_scenes(seed)
    wanted = loops(prediction, truth)
    scores = scores_by_name(track_scores(prediction, truth))
    for name, value in wanted.items():
        assert scores[name].value == pytest.approx(value, abs=1e-5), name


def loops(prediction: Scene, truth: Scene) -> dict[str, float]:
    """Compute the scores with loops over all entries in NumPy."""
    p, t = tracks_of(prediction), tracks_of(truth)
    entries = [
        (a, f, q)
        for a in range(2)
        for f in range(5)
        for q in range(6)
        if t.confidence[a, f, q] > 0 and t.confidence[a, t.anchors[a], q] > 0
    ]
    found = {e: bool(p.confidence[e] > 0) for e in entries}
    where = {e: p.points[e].double().numpy() for e in entries}
    true = {e: t.points[e].double().numpy() for e in entries}
    norms = np.array([[np.linalg.norm(true[e]), np.linalg.norm(where[e])] for e in entries if found[e]])
    lower = [np.sort(column)[(len(column) - 1) // 2] for column in norms.T]
    ratio = np.sort(norms[:, 0] / norms[:, 1])[(len(norms) - 1) // 2]
    by_scale = {e: np.linalg.norm(where[e] * lower[0] / lower[1] - true[e]) if found[e] else np.inf for e in entries}
    by_ratio = {e: np.linalg.norm(where[e] * ratio - true[e]) if found[e] else np.inf for e in entries}

    def apd(errors: dict[tuple[int, int, int], float], over: list[tuple[int, int, int]]) -> float:
        return float(np.mean([[errors[e] <= limit for e in over] for limit in (0.1, 0.3, 0.5, 1.0)]))

    start = {(a, q): t.points[a, t.anchors[a], q].double().numpy() for a in range(2) for q in range(6)}
    steps = {e: np.linalg.norm(true[e] - start[e[0], e[2]]) for e in entries}
    moving = [e for e in entries if steps[e] > 0.02 * start[e[0], e[2]][2]]
    to_unit = 3 / np.sort([place[2] for place in start.values()])[5]
    beside = [e for e in entries if e[1] != int(t.anchors[e[0]])]
    right = [found[e] and (float(p.visibility[e]) > 0.5) == bool(t.visibility[e]) for e in beside]
    jaccards = []
    for limit in (0.1, 0.3, 0.5, 1.0):
        positives = [e for e in entries if found[e] and p.visibility[e] > 0.5]
        hits = sum(bool(t.visibility[e]) and bool(by_scale[e] <= limit) for e in positives)
        jaccards.append(hits / (sum(bool(t.visibility[e]) for e in entries) + len(positives) - hits))
    shares = []
    for a in range(2):
        for q in range(6):
            anchor = int(t.anchors[a])
            path = [(a, f, q) for f in range(anchor + 1, 5) if (a, f, q) in found]
            path = path or [(a, f, q) for f in range(anchor - 1, -1, -1) if (a, f, q) in found]
            if path:
                alive = [by_scale[e] <= 0.5 for e in path]
                shares.append((alive.index(False) if False in alive else len(alive)) / len(alive))
    return {
        "apd3d": apd(by_scale, entries),
        "epe": float(np.mean([by_scale[e] for e in entries if found[e]])),
        "apd3d_median_of_ratios": apd(by_ratio, entries),
        "apd3d_moving": apd(by_scale, moving),
        "epe_moving": float(np.mean([by_scale[e] for e in moving if found[e]])),
        "moving_epe": float(np.mean([by_scale[e] for e in moving if found[e]]) * to_unit),
        "static_oracle_moving_epe": float(np.mean([steps[e] for e in moving]) * to_unit),
        "survival": float(np.mean(shares)),
        "visibility_accuracy": float(np.mean(right)),
        "aj": float(np.mean(jaccards)),
    }


def test_a_track_of_the_last_frame_is_evaluated_backward() -> None:
    true = torch.tensor([0.0, 0.0, 4.0]).expand(1, 4, 1, 3)
    predicted = true.clone()
    predicted[0, 1, 0, 0] = 0.6
    truth, prediction = scene_of(true, anchors=(3,)), scene_of(predicted, anchors=(3,))
    assert scores_by_name(track_scores(prediction, truth))["survival"].value == pytest.approx(1 / 3)
    alone = scores_by_name(track_scores(prediction.frames([3]), truth.frames([3])))
    assert math.isnan(alone["survival"].value)
    assert math.isnan(alone["visibility_accuracy"].value)
    assert alone["apd3d"].value == 1


def test_a_track_half_a_meter_off_survives() -> None:
    truth = scene_of(torch.tensor([0.0, 0.0, 4.0]).expand(1, 3, 3, 3))
    for offset, wanted in ((0.5, 1), (0.501, 5 / 6)):
        points = tracks_of(truth).points.clone()
        points[0, 2, 1, 0] = offset
        assert scores_by_name(track_scores(with_tracks(truth, points=points), truth))[
            "survival"
        ].value == pytest.approx(wanted)


def test_thresholds_are_inclusive() -> None:
    errors = torch.tensor([[0.5, 0.25, torch.nan, 2.0]])
    everywhere = torch.ones(1, 4, dtype=torch.bool)
    assert mean_share_within(errors, everywhere, (0.25, 0.5)) == pytest.approx((1 + 2) / 4 / 2)
    assert mean_share_within(errors, torch.tensor([[True, False, False, True]]), (0.5,)) == 0.5
    true = torch.tensor([[0.0, 0.0, 50.0], [1.0, 0.0, 50.0], [1.0001, 0.0, 50.0]])[None, :, None]
    moving = is_dynamic_entry(track_pairs(scene_of(true), scene_of(true)))
    assert moving[:, 0].tolist() == [False, False, True]


def test_displacement_is_relative_to_the_depth_in_the_camera_of_the_anchor() -> None:
    true = torch.tensor([[0.0, 0.0, 4.0], [0.0, 0.0, 4.0], [0.12, 0.0, 4.0]])[None, :, None]
    truth = scene_of(true, anchors=(1,))
    world_from_cam = torch.eye(4).repeat(3, 1, 1)
    world_from_cam[1, 2, 3] = -4.0
    farther = replace(truth, cameras=replace(truth.cameras, world_from_cam=world_from_cam))
    assert is_dynamic_entry(track_pairs(truth, truth))[:, 0].tolist() == [False, False, True]
    assert not is_dynamic_entry(track_pairs(farther, farther)).any()


def test_jaccard_on_paper() -> None:
    predicted_visibility, true_visibility = (
        torch.tensor([[True, True, True, False, False, True]]),
        torch.tensor([[True, True, False, True, False, True]]),
    )
    within = torch.tensor([[True, False, True, True, True, True]])
    counted = torch.tensor([[True, True, True, True, True, False]])
    # One hit, one too far away, one occluded, one missed; the last one does not count.
    assert jaccard(within, predicted_visibility, true_visibility, counted) == pytest.approx(1 / (3 + 2))


def test_survival_counts_known_frames_outwards() -> None:
    steps = torch.arange(5)[:, None] - torch.tensor([0, 4, 0])
    survives = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1], [1, 1, 1]]).bool()
    counted = torch.tensor([[0, 1, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]]).bool()
    shares = survival_shares(survives, steps, counted)
    assert shares[:2].tolist() == pytest.approx([1 / 3, 1 / 4])
    assert shares[2].isnan()


def test_alignment_is_once_over_all_found_and_known() -> None:
    prediction, truth = random_scenes(5)
    pairs = track_pairs(prediction, truth)
    both = pairs.is_found & pairs.is_known
    matrix = align_scale(pairs.predicted[both], pairs.true[both]).truth_from_prediction
    errors = aligned_errors(pairs, align_scale)
    assert torch.allclose(
        errors[both], (pairs.predicted[both] * matrix[0, 0] - pairs.true[both]).norm(dim=-1), atol=1e-6
    )
    assert errors[~pairs.is_found].isnan().all()
    assert aligned_errors(pairs, align_scale, min_points=int(both.sum()) + 1).isnan().all()
    assert not aligned_errors(pairs, align_scale, min_points=int(both.sum())).isnan().all()
    tripled = aligned_errors(pairs, align_scale, unit=3.0)
    assert torch.allclose(tripled[both], 3 * errors[both], rtol=1e-4)
