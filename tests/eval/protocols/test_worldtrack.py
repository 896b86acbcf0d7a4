"""WorldTrack: the published formulas, their flaws, and the second version."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from protocol_scenes import protocol_scenes
from scored import SIM3, scores_by_name, tracks_of, with_tracks

from recon4d import geometry as g
from recon4d.eval.alignment.similarity import Alignment, align_scale, align_sim3
from recon4d.eval.protocols.tapvid3d import tapvid3d_scores
from recon4d.eval.protocols.worldtrack import (
    align_by_medians,
    align_closed_flawed,
    median_filter,
    median_of_columns,
    path_lengths,
    worldtrack_scores,
)
from recon4d.records import Scene


def arrays(prediction: Scene, truth: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return P and G of shape (time, query, 3) for the queries that are visible in frame 0."""
    is_visible = tracks_of(truth).visibility[0, 0] > 0
    return tuple(tracks_of(scene).points[0][:, is_visible].double().numpy() for scene in (prediction, truth))  # type: ignore[return-value]


def published_apd3d_epe(p: np.ndarray, g_: np.ndarray) -> tuple[float, float]:
    d = np.linalg.norm(p - g_, axis=-1)
    return float(np.mean([(d <= tau).sum() / d.size for tau in (0.1, 0.3, 0.5, 1.0)])), float(d.mean())


def published_global(p: np.ndarray, g_: np.ndarray) -> np.ndarray:
    norms = [np.maximum(np.linalg.norm(x.reshape(-1, 3), axis=-1), 1e-12) for x in (g_, p)]
    return p * np.median(norms[0]) / max(np.median(norms[1]), 1e-12)


def published_closed(p: np.ndarray, g_: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    h = np.zeros((3, 3))
    for one, other in zip(p - p.mean(0), g_ - g_.mean(0), strict=True):
        h += np.outer(one, other)
    u, s, vt = np.linalg.svd(h)
    if np.linalg.det(vt.T @ u.T) < 0:
        vt[2] = -vt[2]
    r = vt.T @ u.T
    scale = s.sum() / ((p - p.mean(0)) ** 2).sum()
    return scale, r, g_.mean(0) - scale * r @ p.mean(0)


@pytest.mark.parametrize("seed", range(2))
def test_worldtrack_equals_the_published_formulas(seed: int) -> None:
    prediction, truth = protocol_scenes(seed)
    p, t = arrays(prediction, truth)
    scores = scores_by_name(worldtrack_scores(prediction, truth))
    each = np.stack([published_global(p[:, i : i + 1], t[:, i : i + 1])[:, 0] for i in range(p.shape[1])], axis=1)
    scale, rotation, translation = published_closed(p.reshape(-1, 3), t.reshape(-1, 3))
    moving = np.linalg.norm(np.diff(t, axis=0), axis=-1).sum(0) > 0.01
    assert moving.tolist() == [False] * 5 + [True] * 3
    wanted = {
        "global": published_apd3d_epe(published_global(p, t), t),
        "per_traj": published_apd3d_epe(each, t),
        "sim3_closed_flawed": published_apd3d_epe(p @ (scale * rotation).T + translation, t),
        "moving_realigned": published_apd3d_epe(published_global(p[:, moving], t[:, moving]), t[:, moving]),
    }
    once = published_global(p, t)
    true_visibility = tracks_of(truth).visibility[0][:, :8].numpy() > 0
    for name, (apd3d, epe) in wanted.items():
        assert scores[f"worldtrack_apd3d_{name}"].value == pytest.approx(apd3d), name
        assert scores[f"worldtrack_epe_{name}"].value == pytest.approx(epe, rel=1e-4), name
    wanted_v2 = {
        "moving": published_apd3d_epe(once[:, moving], t[:, moving]),
        "visible": published_apd3d_epe(once[true_visibility], t[true_visibility]),
    }
    for name, (apd3d, epe) in wanted_v2.items():
        assert scores[f"worldtrack_v2_apd3d_{name}"].value == pytest.approx(apd3d), name
        assert scores[f"worldtrack_v2_epe_{name}"].value == pytest.approx(epe, rel=1e-4), name
    assert scores["worldtrack_apd3d_global"].total == 6 * 8
    assert scores["worldtrack_apd3d_moving_realigned"].total == 6 * 3
    assert scores["worldtrack_v2_epe_visible"].total == true_visibility.sum()


def test_ransac_corrects_a_rotated_world_and_ignores_a_few_outliers() -> None:
    _, truth = protocol_scenes(1)
    points = g.transform_points(SIM3, tracks_of(truth).points)
    points[0, 2, 3] += 20
    points[0, 4, 6] -= 20
    scores = scores_by_name(worldtrack_scores(with_tracks(truth, points=points), truth))
    assert scores["worldtrack_apd3d_sim3"].value == pytest.approx(46 / 48)
    assert scores["worldtrack_epe_sim3"].value == pytest.approx(2 * 20 * math.sqrt(3) / 2.5 / 48, rel=1e-3)
    assert scores["worldtrack_v2_apd3d_moving_sim3"].value == pytest.approx(17 / 18)
    assert scores["worldtrack_apd3d_sim3_closed_flawed"].value < 0.9
    assert scores["worldtrack_apd3d_global"].value < 0.5


def test_ransac_uses_meters_and_the_published_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake(predicted: torch.Tensor, true: torch.Tensor, threshold: float, seed: int) -> Alignment:
        calls.append((len(predicted), float(true.norm(dim=-1).max()), threshold, seed))
        return align_sim3(predicted, true)

    monkeypatch.setattr("recon4d.eval.alignment.ransac.align_sim3_ransac", fake)
    prediction, truth = protocol_scenes(0)
    _, t = arrays(prediction, truth)
    worldtrack_scores(prediction, truth)
    worldtrack_scores(prediction, replace(truth, metres_per_unit=torch.tensor(10.0)))
    farthest = np.linalg.norm(t, axis=-1).max()
    assert calls == [(48, pytest.approx(farthest), 0.05, 0), (48, pytest.approx(10 * farthest), 0.05, 0)]
    # Two points do not determine a similarity transform.
    confidence = torch.zeros(1, 6, 10)
    confidence[0, 0, :2] = 1
    scores = scores_by_name(worldtrack_scores(with_tracks(prediction, confidence=confidence), truth))
    assert len(calls) == 2
    assert scores["worldtrack_apd3d_sim3"].value == 0
    assert scores["worldtrack_epe_sim3"].note == "no predicted track could be aligned with the true queries"
    confidence[0, 0, 2] = 1
    worldtrack_scores(with_tracks(prediction, confidence=confidence), truth)
    assert len(calls) == 3


def test_flawed_similarity_equals_umeyama_unless_a_reflection_fits_better() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(200, 3, generator=generator)
    moved = g.transform_points(SIM3, true) + 0.1 * torch.randn(200, 3, generator=generator)
    assert torch.allclose(
        align_closed_flawed(moved, true).truth_from_prediction, align_sim3(moved, true).truth_from_prediction, atol=1e-5
    )
    mirrored = true * torch.tensor([1.0, 1.0, -1.0])
    scale, rotation, translation = published_closed(mirrored.double().numpy(), true.double().numpy())
    flawed = align_closed_flawed(mirrored, true)
    assert flawed.count == 200
    matrix = flawed.truth_from_prediction.double().numpy()
    assert np.allclose(matrix[:3, :3], scale * rotation, atol=1e-5)
    assert np.allclose(matrix[:3, 3], translation, atol=1e-5)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert float(g.similarity_scale(flawed.truth_from_prediction)) == pytest.approx(1, abs=1e-5)
    right = align_sim3(mirrored, true).truth_from_prediction
    assert float(g.similarity_scale(right)) < 0.5
    errors = [(g.transform_points(m, mirrored) - true).square().sum() for m in (flawed.truth_from_prediction, right)]
    assert errors[0] > errors[1]
    at_one_place = align_closed_flawed(torch.zeros(4, 3), true[:4]).truth_from_prediction
    assert at_one_place.isfinite().all()


def test_published_medians_of_even_numbers_average_the_two_middle_values() -> None:
    true = torch.tensor([[2.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    predicted = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert float(align_by_medians(predicted, true).truth_from_prediction[0, 0]) == 3
    assert float(align_scale(predicted, true).truth_from_prediction[0, 0]) == 2
    assert align_by_medians(predicted, true).count == 2
    at_origin = align_by_medians(torch.zeros(2, 3), true).truth_from_prediction
    assert float(at_origin[0, 0]) == pytest.approx(3e12)


def test_medians_of_columns_equal_numpy() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(7, 40))
    known = generator.random((7, 40)) > 0.4
    known[:, 0], known[:, 1] = False, True
    wanted = [np.median(column[mask]) if mask.any() else np.nan for column, mask in zip(values.T, known.T, strict=True)]
    assert np.allclose(median_of_columns(torch.tensor(values), torch.tensor(known)), wanted, equal_nan=True)


def test_path_lengths_skip_unknown_points() -> None:
    points = torch.zeros(5, 2, 3)
    points[:, 0, 0] = torch.tensor([0.0, 1.0, 100.0, 1.0, 3.0])
    points[:, 1, 1] = torch.tensor([0.0, 0.0, torch.nan, 0.0, torch.nan])
    known = torch.ones(5, 2, dtype=torch.bool)
    known[2] = False
    known[4, 1] = False
    assert path_lengths(points, known).tolist() == [3.0, 0.0]
    assert path_lengths(points[:, :1], known[:, :1] | True).tolist() == [1 + 99 + 99 + 2]


def test_an_outlier_frame_of_the_truth_is_dynamic_in_the_published_subset_and_not_in_the_second_version() -> None:
    _, truth = protocol_scenes(3)
    points = tracks_of(truth).points.clone()
    points[0, :, :, :] = points[0, :1]
    points[0, :, 1, 0] += torch.tensor([0.0, 0.0, 0.0, 0.5, 0.0, 0.0])
    points[0, :, 2, 0] += torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    truth = with_tracks(truth, points=points)
    scores = scores_by_name(worldtrack_scores(truth, truth))
    assert scores["worldtrack_apd3d_moving_realigned"].total == 2 * 6
    assert scores["worldtrack_v2_apd3d_moving"].total == 6


def test_the_median_filter_keeps_straight_paths_and_repeats_the_ends() -> None:
    known = torch.ones(6, 1, dtype=torch.bool)
    straight = torch.arange(6.0)[:, None, None] * torch.tensor([1.0, -2.0, 0.5])
    assert torch.equal(median_filter(straight, known), straight)
    bumpy = torch.tensor([5.0, 0.0, 1.0, 9.0, 2.0, 7.0])[:, None, None].expand(6, 1, 3)
    assert median_filter(bumpy, known)[:, 0, 0].tolist() == [5, 1, 1, 2, 7, 7]
    known[3] = False
    assert median_filter(bumpy, known)[:, 0, 0].tolist() == [5, 1, 1, 1, 2, 7]


def test_the_dynamic_subset_is_realigned_as_published_and_not_in_the_second_version() -> None:
    _, truth = protocol_scenes(4)
    points = tracks_of(truth).points.clone()
    points[0, :, 5:] *= 1.5
    scores = scores_by_name(worldtrack_scores(with_tracks(truth, points=points), truth))
    assert scores["worldtrack_epe_moving_realigned"].value == pytest.approx(0, abs=1e-5)
    assert scores["worldtrack_v2_epe_moving"].value > 1
    assert scores["worldtrack_epe_per_traj"].value == pytest.approx(0, abs=1e-5)


def test_worldtrack_thresholds_are_in_meters_and_the_path_threshold_is_exclusive() -> None:
    prediction, truth = protocol_scenes(0)
    in_centimeters = truth.transformed(g.similarity(torch.tensor(100.0), torch.eye(3), torch.zeros(3)))
    for one, other in zip(
        worldtrack_scores(prediction, truth), worldtrack_scores(prediction, in_centimeters), strict=True
    ):
        assert one.value == pytest.approx(other.value, rel=1e-3), one.metric
    points = tracks_of(truth).points[:, :1].repeat(1, 6, 1, 1)
    points[0, 1:, 0, 0] += 0.0101
    points[0, 1:, 1, 0] += 0.0099
    scores = scores_by_name(worldtrack_scores(prediction, with_tracks(truth, points=points)))
    assert scores["worldtrack_apd3d_moving_realigned"].total == scores["worldtrack_v2_apd3d_moving"].total == 6


def test_scales_per_track_use_found_and_known_points() -> None:
    _, truth = protocol_scenes(0)
    known, found = torch.ones(1, 6, 10), torch.ones(1, 6, 10)
    known[0, 1:5, 3] = 0
    found[0, 1:5, 4] = 0
    wild = tracks_of(truth).points.clone()
    wild[0, 1:5, 3] = 1000
    prediction = with_tracks(truth, confidence=found)
    truth = with_tracks(truth, points=wild, confidence=known, visibility=torch.ones(1, 6, 10))
    scores = scores_by_name(worldtrack_scores(prediction, truth))
    assert scores["worldtrack_v2_apd3d_visible"].total == 6 * 10 - 4
    assert scores["worldtrack_epe_per_traj"].value == pytest.approx(0, abs=1e-6)
    assert (scores["worldtrack_epe_per_traj"].count, scores["worldtrack_epe_per_traj"].total) == (52, 56)
    assert scores["worldtrack_apd3d_per_traj"].value == pytest.approx(52 / 56)


def test_only_queries_anchored_and_visible_in_frame_0_count() -> None:
    prediction, truth = protocol_scenes(0)
    for scene in (prediction, truth):
        assert tracks_of(scene).points.shape == (1, 6, 10, 3)
    two = [
        with_tracks(
            scene,
            points=tracks_of(scene).points.repeat(2, 1, 1, 1),
            visibility=tracks_of(scene).visibility.repeat(2, 1, 1),
            confidence=tracks_of(scene).confidence.repeat(2, 1, 1),
            anchors=torch.tensor([0, 2]),
            pixels=tracks_of(scene).pixels.repeat(2, 1, 1),
        )
        for scene in (prediction, truth)
    ]
    assert worldtrack_scores(*two) == worldtrack_scores(prediction, truth)
    hidden = with_tracks(truth, visibility=torch.zeros(1, 6, 10))
    for score in worldtrack_scores(prediction, hidden):
        assert score.note == "no true track of anchor 0 is visible at its anchor"


def test_undefined_scores_give_a_reason() -> None:
    prediction, truth = protocol_scenes(0)
    without = replace(truth, tracks=None)
    assert worldtrack_scores(prediction, without) == tapvid3d_scores(prediction, without) == ()
    for score in (
        *worldtrack_scores(replace(prediction, tracks=None), truth),
        *tapvid3d_scores(replace(prediction, tracks=None), truth),
    ):
        assert (math.isnan(score.value), score.note) == (True, "no tracks were predicted")
        assert score.total > 0
    unknown_unit = replace(truth, metres_per_unit=torch.tensor(torch.nan))
    for score in worldtrack_scores(prediction, unknown_unit):
        assert score.note == "the truth's unit is not known in meters"
    scores = scores_by_name(tapvid3d_scores(prediction, unknown_unit))
    for name in ("tapvid3d_apd_none", "tapvid3d_aj_none", "tapvid3d_apd_fixed", "tapvid3d_aj_fixed"):
        assert scores.pop(name).note == "the truth's unit is not known in meters"
    assert not any(math.isnan(score.value) for score in scores.values())
    without_unit = replace(prediction, metres_per_unit=torch.tensor(torch.nan))
    scores = scores_by_name(tapvid3d_scores(without_unit, truth))
    assert scores["tapvid3d_apd_none"].note == "the prediction's unit is not known in meters"
    nothing_known = with_tracks(truth, confidence=torch.zeros(1, 6, 10))
    for score in tapvid3d_scores(prediction, nothing_known):
        assert score.note == "no true track is known at its anchor"
    hidden = scores_by_name(tapvid3d_scores(prediction, with_tracks(truth, visibility=torch.zeros(1, 6, 10))))
    assert not math.isnan(hidden.pop("tapvid3d_oa").value)
    for score in hidden.values():
        assert score.note == "no true track is visible"
    elsewhere = with_tracks(prediction, anchors=torch.tensor([1]))
    assert {score.value for score in tapvid3d_scores(elsewhere, truth)} == {0}
    for score in worldtrack_scores(elsewhere, truth):
        assert score.value == 0 or score.note == "no predicted track could be aligned with the true queries"
    static = with_tracks(truth, points=tracks_of(truth).points[:, :1].expand(-1, 6, -1, -1))
    scores = scores_by_name(worldtrack_scores(prediction, static))
    for name in ("worldtrack_apd3d_moving_realigned", "worldtrack_v2_epe_moving", "worldtrack_v2_apd3d_moving_sim3"):
        assert scores[name].note == "no true path is longer than 0.01 m"
