"""Distances between point clouds: cases by hand, all pairs, planes and ICP."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optional_packages import needs_open3d
from point_scenes import curved, noise

from recon4d import geometry as g
from recon4d.eval.metrics.point_clouds import (
    accuracy_and_completeness,
    align_icp,
    f_score,
    nearest_distances,
    nearest_neighbors,
    normal_consistency,
    normals,
    subsample,
)


def test_cloud_distances_computed_by_hand() -> None:
    predicted = torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]])
    true = torch.tensor([[0.0, 0, 0], [1, 1, 0]])
    assert nearest_distances(predicted, true).tolist() == pytest.approx([0, 1, math.sqrt(17)])
    assert nearest_neighbors(predicted[[0, 2]], true)[1].tolist() == [0, 1]
    distances = accuracy_and_completeness(predicted, true)
    assert distances.accuracy == pytest.approx((1 + math.sqrt(17)) / 3)
    assert distances.accuracy_median == pytest.approx(1)
    assert distances.completeness == distances.completeness_median == pytest.approx(0.5)
    assert distances.chamfer == pytest.approx(((1 + math.sqrt(17)) / 3 + 0.5) / 2)
    # Closer than 1: one of three, one of two. Closer than 1.01: two of three, both.
    assert f_score(predicted, true, 1.0) == pytest.approx(2 * (1 / 3) * (1 / 2) / (5 / 6))
    assert f_score(predicted, true, 1.01) == pytest.approx(2 * (2 / 3) / (5 / 3))
    assert f_score(predicted, true + 100, 1.0) == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30))
def test_distances_equal_those_over_all_pairs(seed: int, n: int, m: int) -> None:
    a, b = noise((n, 3), 1, seed).double(), noise((m, 3), 1, seed + 1).double()
    every = (a[:, None] - b).norm(dim=-1)
    distances = accuracy_and_completeness(a, b)
    torch.testing.assert_close(nearest_distances(a, b), every.amin(1))
    assert distances.accuracy == pytest.approx(float(every.amin(1).mean()))
    assert distances.completeness == pytest.approx(float(every.amin(0).mean()))
    assert distances.accuracy_median == pytest.approx(float(np.median(every.amin(1))))
    assert distances.completeness_median == pytest.approx(float(np.median(every.amin(0))))
    precision, recall = float((every.amin(1) < 0.5).double().mean()), float((every.amin(0) < 0.5).double().mean())
    expected = 0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
    assert f_score(a, b, 0.5) == pytest.approx(expected)
    assert f_score(a, b, 0.5) == pytest.approx(f_score(b, a, 0.5))
    assert distances.chamfer == pytest.approx(accuracy_and_completeness(b, a).chamfer)


@needs_open3d
def test_results_of_empty_clouds() -> None:
    some, empty = torch.zeros(2, 3), torch.zeros(0, 3)
    for a, b in ((some, empty), (empty, some), (empty, empty)):
        distances = accuracy_and_completeness(a, b)
        assert distances.accuracy == distances.completeness == distances.chamfer == math.inf
        assert distances.accuracy_median == distances.completeness_median == math.inf
        assert f_score(a, b, 1.0) == 0
        assert math.isnan(normal_consistency(a, b).mean)
        assert math.isnan(normal_consistency(a, b).of_truth_median)
    assert nearest_distances(some, empty).tolist() == [math.inf] * 2
    assert nearest_distances(empty, some).tolist() == []
    assert normals(empty).shape == (0, 3)


@needs_open3d
def test_results_of_single_points() -> None:
    one = torch.tensor([[1.0, 2, 3]])
    assert accuracy_and_completeness(one, one + 1).chamfer == pytest.approx(math.sqrt(3))
    assert normals(one).tolist() == [[0, 0, 1]]
    assert normal_consistency(one, one).mean == 1


def test_subsampling_keeps_the_same_pixels_of_two_maps_without_duplicates() -> None:
    cloud = torch.arange(300.0).reshape(100, 3)
    few = subsample(cloud, 10, seed=3)
    assert few.shape == (10, 3)
    assert len(few.unique(dim=0)) == 10
    assert (few % 3 == torch.arange(3)).all()
    assert torch.equal(few, subsample(cloud, 10, seed=3))
    assert not torch.equal(few, subsample(cloud, 10, seed=4))
    assert torch.equal(subsample(cloud, 1000, seed=3).sort(dim=0).values, cloud)
    known = torch.ones(100, dtype=torch.bool)
    known[few[4, 0].int() // 3] = False
    partly = subsample(cloud, 10, seed=3, is_known=known)
    assert torch.equal(partly[:9], torch.cat([few[:4], few[5:]]))
    assert subsample(cloud, 10, 3, torch.zeros(100, dtype=torch.bool)).shape == (0, 3)
    with pytest.raises(ValueError, match="count must be at least 1"):
        subsample(cloud, 0, seed=3)


@needs_open3d
def test_normals_of_a_plane() -> None:
    flat = noise((200, 3), 1, 0)
    flat[:, 2] = 0.5 * flat[:, 0]
    expected = torch.tensor([-0.5, 0, 1], dtype=torch.float64) / math.sqrt(1.25)
    torch.testing.assert_close((normals(flat) @ expected).abs(), torch.ones(200, dtype=torch.float64))


@needs_open3d
def test_normals_are_the_direction_of_least_variance_of_the_thirty_nearest_points() -> None:
    cloud = noise((80, 3), 1, 1).double()
    nearest = (cloud[:, None] - cloud).norm(dim=-1).argsort(dim=-1)[:, :30]
    for i in range(80):
        around = cloud[nearest[i]].numpy()
        least = np.linalg.eigh(np.cov(around.T))[1][:, 0]
        assert abs(float(normals(cloud)[i] @ torch.tensor(least))) == pytest.approx(1, abs=1e-6)


@needs_open3d
def test_normal_consistency_of_planes_is_the_cosine_between_them() -> None:
    # A plane, and the same plane rotated by 60 degrees.
    flat = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    flat[:, 2] = 0
    rotated = flat @ g.rotation_from_axis_angle(torch.tensor([math.radians(60), 0, 0])).T
    assert normal_consistency(flat, flat).mean == pytest.approx(1)
    consistency = normal_consistency(rotated, flat)
    for cosine in dataclasses.astuple(consistency):
        assert cosine == pytest.approx(0.5, abs=1e-5)
    assert normal_consistency(rotated, rotated + torch.tensor([0.0, 0, 1])).mean == pytest.approx(1)


@needs_open3d
def test_normal_consistency_averages_over_each_cloud() -> None:
    a, b = noise((60, 3), 1, 2).double(), noise((90, 3), 1, 3).double()
    every = (a[:, None] - b).norm(dim=-1)
    cosines = (normals(a) @ normals(b).T).abs()
    over_a = cosines[torch.arange(60), every.argmin(1)].numpy()
    over_b = cosines[every.argmin(0), torch.arange(90)].numpy()
    found = normal_consistency(a, b)
    assert found.of_prediction == pytest.approx(over_a.mean())
    assert found.of_prediction_median == pytest.approx(np.median(over_a))
    assert found.of_truth == pytest.approx(over_b.mean())
    assert found.of_truth_median == pytest.approx(np.median(over_b))
    assert found.mean == pytest.approx((over_a.mean() + over_b.mean()) / 2)


@needs_open3d
def test_icp_recovers_a_transform(capfd: pytest.CaptureFixture[str]) -> None:
    true = curved().points.reshape(-1, 3)
    moved_from_true = g.rigid(
        g.rotation_from_axis_angle(torch.tensor([0.01, -0.01, 0.02])), torch.tensor([0.02, 0, -0.01])
    )
    alignment = align_icp(g.transform_points(moved_from_true, true), true, 0.3, torch.eye(4))
    torch.testing.assert_close(alignment.truth_from_prediction, g.invert(moved_from_true).double(), atol=1e-4, rtol=0)
    assert alignment.name == "ICP"
    assert alignment.count == len(true)
    assert capfd.readouterr() == ("", "")


@needs_open3d
def test_icp_uses_the_initial_transform_and_the_largest_distance() -> None:
    true = curved().points.reshape(-1, 3)
    away = g.rigid(torch.eye(3), torch.tensor([50.0, 0, 0]))
    there = align_icp(g.transform_points(away, true), true, 0.1, g.invert(away))
    torch.testing.assert_close(there.truth_from_prediction, g.invert(away).double(), atol=1e-4, rtol=0)
    nothing = align_icp(g.transform_points(away, true), true, 0.1, torch.eye(4))
    assert torch.equal(nothing.truth_from_prediction, torch.eye(4, dtype=torch.float64))
    assert nothing.count == 0


@needs_open3d
def test_icp_of_few_points_returns_the_initial_transform(capfd: pytest.CaptureFixture[str]) -> None:
    start = g.rigid(torch.eye(3), torch.tensor([1.0, 2, 3]))
    for n, m in ((0, 5), (5, 0), (2, 5), (5, 2)):
        alignment = align_icp(noise((n, 3), 1, 0), noise((m, 3), 1, 1), 10.0, start)
        assert torch.equal(alignment.truth_from_prediction, start.double())
        assert alignment.count == 0
    assert align_icp(noise((3, 3), 1, 0), noise((3, 3), 1, 1), 10.0, start).count == 3
    assert capfd.readouterr() == ("", "")
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="max_distance of ICP"):
            align_icp(noise((5, 3), 1, 0), noise((5, 3), 1, 1), wrong, start)
