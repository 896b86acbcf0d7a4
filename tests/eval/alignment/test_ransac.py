"""Seeded RANSAC finds the similarity transform of the majority of the points."""

import itertools

import numpy as np
import pytest
import torch
from clouds import cloud, example_sim3

from recon4d import geometry as g
from recon4d.eval.alignment import ransac
from recon4d.eval.alignment.ransac import align_sim3_ransac
from recon4d.eval.alignment.similarity import align_sim3


def with_outliers(count: int, outliers: int) -> tuple[torch.Tensor, torch.Tensor]:
    a = cloud(count)
    b = g.transform_points(example_sim3(), a)
    b[:outliers] += 3 + cloud(outliers, seed=5).abs()
    return a, b


def test_ransac_finds_the_similarity_of_the_majority() -> None:
    a, b = with_outliers(100, 45)
    found = align_sim3_ransac(a, b, 0.05)
    torch.testing.assert_close(found.truth_from_prediction, example_sim3(), rtol=0, atol=1e-12)
    assert (found.name, found.count) == ("sim3 RANSAC", 55)
    assert not torch.allclose(align_sim3(a, b).truth_from_prediction, example_sim3(), atol=0.1)


def test_ransac_equals_the_closed_form_if_all_points_are_inliers() -> None:
    a = cloud(60)
    b = g.transform_points(example_sim3(), a) + 0.01 * cloud(60, seed=2)
    found = align_sim3_ransac(a, b, 1.0)
    assert found.count == 60
    torch.testing.assert_close(found.truth_from_prediction, align_sim3(a, b).truth_from_prediction, rtol=0, atol=0)


def test_ransac_of_seven_points_finds_the_best_of_all_triples() -> None:
    """The reference tries all 35 triples; a thousand samples of 3 out of 7 contain each of them."""
    a = cloud(7)
    b = g.transform_points(example_sim3(), a) + 0.2 * cloud(7, seed=2)
    most = 0
    for triple in itertools.combinations(range(7), 3):
        fitted = g.fit_similarity(a[list(triple)], b[list(triple)])
        most = max(most, int(((g.transform_points(fitted, a) - b).norm(dim=-1) < 0.25).sum()))
    assert 3 < most < 7
    assert align_sim3_ransac(a, b, 0.25).count == most


def test_ransac_is_reproducible_and_refits_only_on_inliers() -> None:
    a, b = with_outliers(100, 30)
    b = b + 0.02 * cloud(100, seed=3)
    first, again, other = (align_sim3_ransac(a, b, 0.04, seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first.truth_from_prediction, again.truth_from_prediction, rtol=0, atol=0)
    assert not torch.equal(first.truth_from_prediction, other.truth_from_prediction)
    assert 40 < first.count < 70
    torch.testing.assert_close(first.truth_from_prediction, example_sim3(), rtol=0, atol=0.03)


def test_the_inlier_threshold_is_in_the_unit_of_the_truth() -> None:
    """Twelve points fit exactly and one is off by 0.5; the predicted coordinates are a hundred times larger."""
    true = 8 * cloud(13)
    predicted = 100 * true.clone()
    true[4, 0] += 0.5
    assert align_sim3_ransac(predicted, true, 0.05).count == 12
    assert align_sim3_ransac(predicted, true, 0.49).count >= 12
    assert align_sim3_ransac(predicted, true, 0.51).count == 13


def test_many_points_are_subsampled() -> None:
    a = cloud(ransac.MAX_POINTS + 500)
    found = align_sim3_ransac(a, 2 * a, 0.05)
    assert found.count == ransac.MAX_POINTS
    torch.testing.assert_close(found.truth_from_prediction[:3, :3], 2 * torch.eye(3).double())


def test_without_consensus_ransac_uses_all_points_and_has_a_count_of_zero() -> None:
    a, b = cloud(), cloud(seed=1)
    for given in [(a, b), (a[:2], b[:2]), (a[:1], b[:1])]:
        found = align_sim3_ransac(*given, 1e-6)
        assert (found.name, found.count) == ("sim3 RANSAC", 0)
        torch.testing.assert_close(found.truth_from_prediction, align_sim3(*given).truth_from_prediction)
    assert align_sim3_ransac(a[:3], 2 * a[:3], 1e-6).count == 3


def test_two_inliers_are_not_a_consensus() -> None:
    a, b = cloud(4), cloud(4, seed=1)
    triples = [list(triple) for triple in itertools.combinations(range(4), 3)]
    residuals = torch.stack(
        [(g.transform_points(g.fit_similarity(a[t], b[t]), a) - b).norm(dim=-1) for t in triples]
    ).sort(dim=-1)[0]
    second, third = float(residuals[:, 1].min()), float(residuals[:, 2].min())
    assert second < third
    assert align_sim3_ransac(a, b, (second + third) / 2).count == 0
    assert align_sim3_ransac(a, b, 1.01 * third).count == 3


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_the_inlier_threshold_must_be_positive_and_finite(threshold: float) -> None:
    with pytest.raises(ValueError, match="inlier threshold must be positive"):
        align_sim3_ransac(cloud(), cloud(), threshold)


def test_samples_have_different_points_and_are_uniform() -> None:
    samples = torch.cat(list(ransac._triples(np.random.default_rng(0), 5, torch.device("cpu"))))
    assert samples.shape == (1000, 3)
    assert all(len(set(sample)) == 3 for sample in samples.tolist())
    assert set(samples.flatten().tolist()) == set(range(5))
    triples = {tuple(sample) for sample in samples.tolist()}
    assert len(triples) == 60  # every ordered triple
    for column in samples.T:
        assert torch.bincount(column).min() > 150  # of 200
