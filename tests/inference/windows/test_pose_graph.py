"""Pose graphs and robust similarity fits of windows."""

import math

import pytest
import torch
from torch import Tensor

from recon4d import geometry as g
from recon4d.inference.windows.pose_graph import (
    Edge,
    optimize_pose_graph,
    similarity_from_tangent,
    tangent_from_similarity,
)
from recon4d.inference.windows.robust_similarity import fit_similarity_robustly, robust_mean

# Loops


def random_similarities(count: int, size: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return similarity_from_tangent(size * torch.randn(count, 7, generator=generator, dtype=torch.double))


def test_tangents_and_similarities_are_inverse() -> None:
    tangents = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    tangents[0] = 0
    tangents[1] *= 1e-9
    torch.testing.assert_close(tangent_from_similarity(similarity_from_tangent(tangents)), tangents)


def test_a_consistent_pose_graph_converges_to_the_exact_solution() -> None:
    truth = random_similarities(6, 0.5, seed=1)
    truth[0] = torch.eye(4)
    pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (1, 4)]
    edges = [Edge(a, b, g.invert(truth[a]) @ truth[b]) for a, b in pairs]
    start = truth @ random_similarities(6, 0.1, seed=2)
    start[0] = truth[0]
    found = optimize_pose_graph(start, edges, length=2.0)
    torch.testing.assert_close(found, truth, rtol=1e-7, atol=1e-7)


def test_a_loop_distributes_the_scale_error_evenly() -> None:
    """Each of ten steps scales by 1.02; the loop edge says that the last unit equals the first."""
    step = g.similarity(torch.tensor(1.02).double(), torch.eye(3).double(), torch.zeros(3).double())
    start = torch.stack([torch.linalg.matrix_power(step, k) for k in range(11)])
    edges = [Edge(k, k + 1, step) for k in range(10)] + [Edge(0, 10, torch.eye(4).double())]
    logs = g.similarity_scale(optimize_pose_graph(start, edges, length=1.0)).log()
    residual = 10 * math.log(1.02) / 11
    torch.testing.assert_close(logs, torch.arange(11).double() * (math.log(1.02) - residual), rtol=1e-6, atol=1e-9)


# Robust estimation


def test_the_fit_finds_the_majority() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(500, 3, generator=generator)
    b_from_a = random_similarities(1, 0.7, seed=5)[0].float()
    moved = g.transform_points(b_from_a, points)
    # 45 % of the points agree on another similarity, the most difficult kind of outliers.
    moved[:225] = g.transform_points(random_similarities(1, 0.7, seed=6)[0].float(), points[:225])
    fit = fit_similarity_robustly(points, moved, torch.ones(500))
    torch.testing.assert_close(fit.b_from_a.float(), b_from_a, rtol=1e-4, atol=1e-5)
    again = fit_similarity_robustly(points, moved, torch.ones(500))
    assert torch.equal(fit.b_from_a, again.b_from_a)


@pytest.mark.parametrize("seed", range(8))
def test_the_fit_needs_no_majority_if_outliers_do_not_agree(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(500, 3, generator=generator)
    b_from_a = random_similarities(1, 0.7, seed=seed + 5)[0].float()
    moved = g.transform_points(b_from_a, points)
    moved[:275] = torch.randn(275, 3, generator=generator)
    fit = fit_similarity_robustly(points, moved, torch.ones(500))
    torch.testing.assert_close(fit.b_from_a.float(), b_from_a, rtol=1e-4, atol=1e-4)


def test_residuals_are_relative_to_the_lengths() -> None:
    """If errors are proportional to distance, relative residuals give a more accurate fit."""
    generator = torch.Generator().manual_seed(1)
    distances = torch.exp(2 * torch.rand(400, generator=generator))
    points = torch.nn.functional.normalize(torch.randn(400, 3, generator=generator), dim=-1) * distances[:, None]
    noisy = points + 0.05 * distances[:, None] * torch.randn(400, 3, generator=generator)
    off = [
        float(
            g.transform_points(
                fit_similarity_robustly(points, noisy, lengths).b_from_a, torch.zeros(1, 3).double()
            ).norm()
        )
        for lengths in (distances, torch.ones(400))
    ]
    assert off[0] < 0.7 * off[1]
    # The reported error is relative to the lengths as well.
    once, twice = (fit_similarity_robustly(points, noisy, factor * distances).error for factor in (1, 2))
    assert once == pytest.approx(2 * twice)
    assert 0.03 < once < 0.15


def test_the_robust_mean_ignores_outliers() -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.cat([3 + 0.01 * torch.randn(550, generator=generator), 3 + torch.rand(450, generator=generator)])
    assert robust_mean(values) == pytest.approx(3.0, abs=0.005)
    with pytest.raises(ValueError, match="at least one"):
        robust_mean(torch.zeros(0))


def test_two_points_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        fit_similarity_robustly(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2))
