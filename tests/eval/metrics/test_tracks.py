"""Tests of 3D track metrics: pairs of queries, one alignment per clip, dynamic points, survival and visibility."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import HEIGHT, WIDTH, make_scene
from scored import SIM3, scores_by_name, tracks_of

from recon4d import geometry as g
from recon4d.eval.alignment.similarity import align_scale
from recon4d.eval.metrics.score import Score
from recon4d.eval.metrics.track_pairs import nearest_queries, track_pairs
from recon4d.eval.metrics.tracks import (
    TRACK_METRICS,
    aligned_errors,
    is_dynamic_entry,
    jaccard,
    mean_share_within,
    survival_shares,
    track_scores,
)
from recon4d.records import Cameras, Scene, Tracks


def scene_of(
    points: torch.Tensor,
    visibility: torch.Tensor | None = None,
    confidence: torch.Tensor | None = None,
    anchors: tuple[int, ...] = (0,),
    pixels: torch.Tensor | None = None,
    metres_per_unit: float = 1.0,
) -> Scene:
    """Create a scene with tracks of shape (anchor, time, query, 3), static cameras at the origin and no known depth."""
    num_frames, num_queries = points.shape[1:3]
    scene = make_scene(num_frames, metres_per_unit=metres_per_unit)
    ones = torch.ones(points.shape[:-1])
    if pixels is None:
        pixels = torch.stack([torch.arange(num_queries) * 2.0 + 0.6, torch.arange(num_queries) * 1.3 + 0.7], dim=-1)
    return replace(
        scene,
        cameras=Cameras(torch.eye(4).expand(num_frames, 4, 4), scene.cameras.intrinsics),
        depth_confidence=torch.zeros_like(scene.depths),
        point_confidence=torch.zeros_like(scene.depths),
        tracks=Tracks(
            points=points,
            visibility=ones if visibility is None else visibility,
            confidence=ones if confidence is None else confidence,
            anchors=torch.tensor(anchors),
            pixels=pixels.expand(points.shape[0], -1, -1),
        ),
    )


def with_tracks(scene: Scene, **changes: torch.Tensor) -> Scene:
    return replace(scene, tracks=replace(tracks_of(scene), **changes))


def random_scenes(seed: int, frames: int = 5, queries: int = 6) -> tuple[Scene, Scene]:
    """Create sparse dynamic true tracks of two anchors, partly occluded and unknown, and a noisy prediction."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    start = noise(2, 1, queries, 3) + torch.tensor([0.0, 0.0, 4.0])
    true = start + (0.2 * noise(2, frames, queries, 3)).cumsum(dim=1)
    confidence = (noise(2, frames, queries) > -1).float()
    confidence[0, 0], confidence[1, 2] = 1, 1
    visibility = (noise(2, frames, queries) > 0).float() * confidence
    truth = scene_of(true, visibility, confidence, (0, 2))
    predicted = (true + 0.3 * noise(2, frames, queries, 3)) / 2
    found = (noise(2, frames, queries) > -1.5).float() * 3
    prediction = with_tracks(
        truth, points=predicted, visibility=torch.rand(2, frames, queries, generator=generator), confidence=found
    )
    return prediction, truth


def test_truth_against_itself_is_perfect() -> None:
    _, truth = random_scenes(0)
    scores = scores_by_name(track_scores(truth, truth))
    assert list(scores) == [metric.name for metric in TRACK_METRICS]
    for name, score in scores.items():
        if name == "static_oracle_moving_epe":
            continue
        perfect = 1 if next(m for m in TRACK_METRICS if m.name == name).unit == "share" else 0
        assert score.value == pytest.approx(perfect, abs=1e-5), name
    assert scores["epe"].count == scores["epe"].total == scores["apd3d"].count


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


def by_hand() -> tuple[Scene, Scene]:
    """Create three tracks over four frames.

    A stays at (0, 0, 4), B stays at (3, 0, 4), and C moves by 1 per frame from (0, 0, 2).
    """
    static = torch.tensor([[[0.0, 0.0, 4.0], [3.0, 0.0, 4.0]]]).expand(4, 2, 3)
    dynamic = torch.tensor([0.0, 0.0, 2.0]) + torch.arange(4.0)[:, None, None] * torch.tensor([1.0, 0.0, 0.0])
    true = torch.cat([static, dynamic], dim=1)[None]
    predicted = true.clone()
    predicted[0, 3, 0, 0] += 0.2
    predicted[0, 2, 2, 1] += 0.4
    predicted[0, 3, 2, 1] += 0.6
    visibility = torch.ones(1, 4, 3)
    visibility[0, 2:, 2] = 0
    confidence = torch.ones(1, 4, 3)
    confidence[0, 1, 1] = 0
    predicted_visibility = visibility.clone()
    predicted_visibility[0, 2, 2] = 1
    predicted_visibility[0, 1, 0] = 0.5
    return scene_of(predicted, predicted_visibility, confidence * 2), scene_of(true, visibility)


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
    assert list(scores) == [metric.name for metric in TRACK_METRICS]
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


def test_predictions_without_queries_have_no_points() -> None:
    prediction, truth = by_hand()
    tracks = tracks_of(prediction)
    empty = with_tracks(
        prediction,
        points=tracks.points[:, :, :0],
        visibility=tracks.visibility[:, :, :0],
        confidence=tracks.confidence[:, :, :0],
        pixels=tracks.pixels[:, :0],
    )
    scores = scores_by_name(track_scores(empty, truth))
    assert scores["apd3d"].value == 0
    assert scores["epe"].note == "no predicted track could be aligned with the true queries"


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


def test_a_similarity_of_the_predicted_world_and_its_unit_change_nothing() -> None:
    prediction, truth = random_scenes(2)
    before, after = track_scores(prediction, truth), track_scores(prediction.transformed(SIM3), truth)
    for one, other in zip(before, after, strict=True):
        assert one.value == pytest.approx(other.value, abs=2e-5), one.metric


def test_sim3_corrects_a_rotated_prediction_and_a_median_scale_does_not() -> None:
    _, truth = random_scenes(3)
    rotated = with_tracks(truth, points=g.transform_points(SIM3, tracks_of(truth).points))
    scores = scores_by_name(track_scores(rotated, truth))
    assert scores["epe_sim3"].value == pytest.approx(0, abs=1e-5)
    assert scores["apd3d_sim3"].value == 1
    assert scores["epe"].value > 0.5
    assert scores["epe_sim3"].alignment == "sim3"
    assert scores["apd3d_median_of_ratios"].alignment == "median of ratios"


@pytest.mark.parametrize("seed", range(4))
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


def test_the_order_of_anchors_and_queries_does_not_matter() -> None:
    prediction, truth = random_scenes(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    p = tracks_of(prediction)
    rotated = with_tracks(
        prediction,
        points=p.points[[1, 0]][:, :, order],
        visibility=p.visibility[[1, 0]][:, :, order],
        confidence=p.confidence[[1, 0]][:, :, order],
        anchors=p.anchors[[1, 0]],
        pixels=p.pixels[[1, 0]][:, order] + 0.3,
    )
    for one, other in zip(track_scores(prediction, truth), track_scores(rotated, truth), strict=True):
        assert one.value == pytest.approx(other.value, nan_ok=True), one.metric


def test_world_frame_is_the_first_camera_registered_in_both_scenes() -> None:
    truth = make_scene(4, anchors=(0, 2), metres_per_unit=1.0)
    world_from_cam = truth.cameras.world_from_cam.clone()
    world_from_cam[:2] = torch.nan
    prediction = replace(truth, cameras=replace(truth.cameras, world_from_cam=world_from_cam)).transformed(SIM3)
    pairs = track_pairs(prediction, truth)
    assert torch.equal(pairs.predicted_cameras.world_from_cam[2], torch.eye(4))
    assert torch.equal(pairs.true_cameras.world_from_cam[2], torch.eye(4))
    assert torch.allclose(pairs.predicted / 2.5, pairs.true, atol=1e-4)
    assert scores_by_name(track_scores(prediction, truth))["epe"].value == pytest.approx(0, abs=1e-4)
    lost = replace(truth, cameras=replace(truth.cameras, world_from_cam=torch.full((4, 4, 4), torch.nan)))
    assert torch.equal(track_pairs(lost, truth).predicted, track_pairs(truth, truth).predicted)


def brute_force(pixels: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    distances = (pixels[:, None].double() - predicted.double()).norm(dim=-1)
    return torch.where(distances.amin(dim=1) <= 0.75, distances.argmin(dim=1), -1)


def test_the_containing_pixel_of_a_dense_prediction_is_the_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(500, 2, generator=generator) * torch.tensor([WIDTH + 4.0, HEIGHT + 4.0]) - 2
    dense = g.pixel_grid(HEIGHT, WIDTH).reshape(-1, 2)
    nothing = torch.zeros(len(dense), dtype=torch.bool)
    index = nearest_queries(pixels, dense, nothing, (HEIGHT, WIDTH))
    assert torch.equal(index, brute_force(pixels, dense))
    assert (index == -1).any()
    assert nearest_queries(torch.tensor([[-0.25, 0.5], [0.5, -0.26]]), dense, nothing, (HEIGHT, WIDTH)).tolist() == [
        0,
        -1,
    ]
    inside = ((pixels >= 0) & (pixels < torch.tensor([WIDTH, HEIGHT]))).all(dim=-1)
    floored = pixels.floor().long()
    assert torch.equal(index[inside], (floored[:, 1] * WIDTH + floored[:, 0])[inside])


def test_a_dense_prediction_of_another_size_is_matched_in_its_own_pixels() -> None:
    size = (48, 64)
    resized = g.pixel_grid(HEIGHT, WIDTH).reshape(-1, 2) * 4
    pixels = torch.tensor([[0.1, 0.1], [3.9, 0.2], [4.1, 7.9], [63.9, 47.9]])
    found = torch.ones(len(resized), dtype=torch.bool)
    assert nearest_queries(pixels, resized, found, size).tolist() == [0, 0, WIDTH + 1, HEIGHT * WIDTH - 1]
    # With an additional query or on a coarse grid, the prediction is sparse: the limit is 0.75 pixels.
    more = torch.cat([resized, resized[:1]])
    assert nearest_queries(pixels, more, torch.ones(len(more), dtype=torch.bool), size).tolist() == [-1] * 4
    assert nearest_queries(pixels, resized + 0.009, found, size).tolist() == [0, 0, WIDTH + 1, HEIGHT * WIDTH - 1]
    assert nearest_queries(pixels, resized + 0.011, found, size).tolist() == [-1] * 4
    coarse = g.pixel_grid(4, 4).reshape(-1, 2)
    assert nearest_queries(pixels, coarse * 16, found[:16], (64, 64)).tolist() == [0, 0, 0, 11]
    assert nearest_queries(pixels, coarse * 16.5, found[:16], (66, 66)).tolist() == [-1] * 4


def test_sparse_queries_are_matched_to_the_nearest_one_with_a_track_within_three_quarters_of_a_pixel() -> None:
    generator = torch.Generator().manual_seed(1)
    pixels, predicted = (torch.rand(n, 2, generator=generator) * 20 for n in (200, 150))
    everywhere = torch.ones(150, dtype=torch.bool)
    index = nearest_queries(pixels, predicted, everywhere, (20, 20))
    assert torch.equal(index, brute_force(pixels, predicted))
    assert 0 < int((index >= 0).sum()) < 200
    some = torch.rand(150, generator=generator) > 0.5
    wanted = brute_force(pixels, torch.where(some[:, None], predicted, 1e6))
    predicted[~some] = torch.nan
    assert torch.equal(nearest_queries(pixels, predicted, some, (20, 20)), wanted)
    assert torch.equal(nearest_queries(pixels, predicted, everywhere, (20, 20)), wanted)
    assert (nearest_queries(pixels, predicted, ~everywhere, (20, 20)) == -1).all()
    limit = torch.tensor([[5.0, 5.0], [5.0, 15.001], [18.0, 2.0]])
    centers = torch.tensor([[5.75, 5.0], [5.75, 15.0], [9.0, 9.0]])
    assert nearest_queries(limit, centers, everywhere[:3], (20, 20)).tolist() == [0, -1, -1]


def test_equal_queries_are_matched_in_order_even_if_they_coincide() -> None:
    pixels = torch.tensor([[3.2, 4.1], [3.2, 4.1], [0.0, 0.0]])
    assert nearest_queries(pixels, pixels.clone(), torch.ones(3, dtype=torch.bool), (20, 20)).tolist() == [0, 1, 2]


def test_dense_pairs_are_fast() -> None:
    height, width, frames = 192, 256, 32
    points = torch.rand(1, frames, height * width, 3) + torch.tensor([0.0, 0.0, 2.0])
    pixels = g.pixel_grid(height, width).reshape(-1, 2)
    scene = scene_of(points, pixels=pixels)
    maps = torch.ones(frames, height, width)
    scene = replace(
        scene,
        depths=maps,
        depth_confidence=maps,
        points=torch.ones(*maps.shape, 3),
        point_confidence=maps,
        dynamic=maps,
    )
    shifted = with_tracks(scene, pixels=pixels[None] + 0.2)
    start = time.perf_counter()
    pairs = track_pairs(scene, shifted)
    assert time.perf_counter() - start < 5
    assert torch.equal(pairs.predicted, pairs.true)
    assert pairs.is_found.all()


def test_unsuitable_scenes_raise_value_errors() -> None:
    prediction, truth = by_hand()
    with pytest.raises(ValueError, match="has no tracks"):
        track_pairs(prediction, replace(truth, tracks=None))
    with pytest.raises(ValueError, match=r"3 frames of .* the truth 4"):
        track_pairs(prediction.frames([0, 1, 2]), truth)
    with pytest.raises(ValueError, match="apply pair_with_truth first"):
        track_pairs(prediction.resized(6, 8), truth)
    world_from_cam = truth.cameras.world_from_cam.clone()
    world_from_cam[1] = torch.nan
    with pytest.raises(ValueError, match="no camera in 1 of 4 frames"):
        track_pairs(prediction, replace(truth, cameras=replace(truth.cameras, world_from_cam=world_from_cam)))
    points = tracks_of(truth).points.clone()
    points[0, 2, 1, 0] = torch.inf
    with pytest.raises(ValueError, match="not finite at 1 places"):
        track_pairs(prediction, with_tracks(truth, points=points))
    confidence = torch.ones(1, 4, 3)
    confidence[0, 2, 1] = 0
    assert track_scores(prediction, with_tracks(truth, points=points, confidence=confidence))
