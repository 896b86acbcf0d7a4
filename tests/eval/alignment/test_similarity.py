"""Alignments by a scale or a similarity: cases by hand, search, degenerate clouds."""

import numpy as np
import pytest
import torch
from clouds import cloud, example_sim3
from scenes import make_scene
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from recon4d import geometry as g
from recon4d.eval.alignment.similarity import align_scale, align_scale_by_ratios, align_sim3, corresponding_points
from recon4d.refine.no_solution import NoSolution

ALL = [align_scale, align_scale_by_ratios, align_sim3]


def residual(aligned: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    return float((g.transform_points(aligned, a) - b).square().sum())


def assert_is_translation(aligned: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    wanted = torch.eye(4).to(b)
    wanted[:3, 3] = b.mean(dim=0) - a.mean(dim=0).to(b)
    torch.testing.assert_close(aligned, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("align", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_truth_against_itself_needs_no_alignment(align, dtype) -> None:
    points = cloud().to(dtype)
    alignment = align(points, points)
    assert alignment.truth_from_prediction.dtype == dtype
    assert alignment.count == 40
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(alignment.truth_from_prediction, torch.eye(4, dtype=dtype), rtol=0, atol=tolerance)


def test_a_similarity_is_recovered_in_the_precision_of_the_points() -> None:
    truth_from_prediction = example_sim3()
    points = cloud()
    found = align_sim3(points, g.transform_points(truth_from_prediction, points))
    torch.testing.assert_close(found.truth_from_prediction, truth_from_prediction, rtol=0, atol=1e-13)
    assert found.name == "sim3"


def test_far_float32_points_are_fitted_in_float64() -> None:
    a = (cloud() + 1e4).float()
    b = g.transform_points(example_sim3().float(), a)
    exact = align_sim3(a.double(), b.double()).truth_from_prediction.float()
    torch.testing.assert_close(align_sim3(a, b).truth_from_prediction, exact, rtol=0, atol=0)


def test_median_scales_of_five_points_computed_by_hand() -> None:
    """The norms are 1, 2, 3, 4, 5 and 2, 8, 9, 4, 5: the medians are 3 and 5, the ratios 2, 4, 3, 1, 1."""
    directions = torch.nn.functional.normalize(cloud(5), dim=-1)
    predicted = directions * torch.tensor([1.0, 2, 3, 4, 5])[:, None]
    true = directions.flip(0) * torch.tensor([2.0, 8, 9, 4, 5])[:, None]
    of_medians, of_ratios = align_scale(predicted, true), align_scale_by_ratios(predicted, true)
    torch.testing.assert_close(of_medians.truth_from_prediction, torch.diag(torch.tensor([5 / 3] * 3 + [1])).double())
    torch.testing.assert_close(of_ratios.truth_from_prediction, torch.diag(torch.tensor([2.0] * 3 + [1])).double())
    assert (of_medians.name, of_ratios.name) == ("median scale", "median of ratios")


def test_medians_of_an_even_number_are_the_lower_ones() -> None:
    axis = torch.tensor([[1.0, 0.0, 0.0]])
    predicted, true = axis * torch.tensor([[1.0], [2.0]]), axis * torch.tensor([[3.0], [10.0]])
    assert align_scale(predicted, true).truth_from_prediction[0, 0] == 3  # 3 / 1
    assert align_scale_by_ratios(predicted, true).truth_from_prediction[0, 0] == 3  # of 3 and 5


@pytest.mark.parametrize("seed", range(2))
def test_rotation_equals_scipy(seed: int) -> None:
    a, b = cloud(20, seed), cloud(20, seed + 100) + cloud(20, seed) @ example_sim3()[:3, :3].T
    expected, _ = Rotation.align_vectors((b - b.mean(0)).numpy(), (a - a.mean(0)).numpy())
    fitted = align_sim3(a, b).truth_from_prediction
    rotation = fitted[:3, :3] / g.similarity_scale(fitted)
    np.testing.assert_allclose(rotation.numpy(), expected.as_matrix(), atol=1e-10)


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_no_similarity_found_by_search_is_better(mirror: float) -> None:
    a = cloud(25)
    b = cloud(25, seed=1) * 0.3 + g.transform_points(example_sim3(), a * torch.tensor([1.0, 1.0, mirror]))

    def squared_error(x: np.ndarray, scale: float) -> float:
        moved = scale * Rotation.from_rotvec(x[:3]).apply(a.numpy()) + x[3:6]
        return float(np.square(moved - b.numpy()).sum())

    rng = np.random.default_rng(0)
    starts = rng.normal(size=(6, 7)) * 2
    sim3 = min(minimize(lambda x: squared_error(x, np.exp(x[6])), start).fun for start in starts)
    assert residual(align_sim3(a, b).truth_from_prediction, a, b) == pytest.approx(sim3, rel=1e-8)


def test_alignment_is_invariant_to_a_similarity_of_the_prediction_and_the_order_of_points() -> None:
    a, b = cloud(), cloud(seed=1) + cloud()
    moved = g.transform_points(example_sim3(0.2), a)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    aligned = g.transform_points(align_sim3(a, b).truth_from_prediction, a)
    again = g.transform_points(align_sim3(moved[order], b[order]).truth_from_prediction, moved)
    torch.testing.assert_close(again, aligned, rtol=0, atol=1e-12)


def test_one_point_or_coinciding_points_determine_only_the_translation() -> None:
    one = cloud(1)
    assert_is_translation(align_sim3(one, one + 2).truth_from_prediction, one, one + 2)
    points, place = cloud(6), torch.tensor([[0.1, 70.3, -5.7]], dtype=torch.float64).expand(6, 3)
    for a, b in [(points, place), (place, points), (place, place + 1), (place.float(), points.float())]:
        assert_is_translation(align_sim3(a, b).truth_from_prediction, a, b)


def test_points_that_differ_only_by_rounding_coincide() -> None:
    rounding = 2e-7 * cloud(8).clamp(-1, 1)
    place = (rounding + torch.tensor([1.0, 2.0, 3.0])).float()
    for a, b in [(place, cloud(8).float()), (cloud(8).float(), place)]:
        assert_is_translation(align_sim3(a, b).truth_from_prediction, a, b)


def test_small_clouds_far_from_the_origin_do_not_coincide() -> None:
    a = 1e-3 * cloud(30) + 100
    torch.testing.assert_close(align_sim3(a, 5 * a).truth_from_prediction[:3, :3], 5 * torch.eye(3).double())
    torch.testing.assert_close(align_sim3(5 * a, a).truth_from_prediction[:3, :3], 0.2 * torch.eye(3).double())


def test_uncorrelated_clouds_are_translated_and_not_scaled_to_zero() -> None:
    """The best scale is 0, which is not invertible."""
    x, y = torch.tensor([1.0, 0, 0]).double(), torch.tensor([0, 1.0, 0]).double()
    a, b = torch.stack([x, -x, x, -x]), torch.stack([y, y, -y, -y]) + 5
    assert_is_translation(align_sim3(a, b).truth_from_prediction, a, b)
    alignment = align_sim3(a.float(), b.float())
    assert alignment.apply(make_scene()).cameras.world_from_cam.isfinite().all()


@pytest.mark.parametrize("dimensions", [1, 2])
def test_points_on_a_line_or_plane_are_aligned_exactly_and_not_reflected(dimensions: int) -> None:
    a = cloud() * (torch.arange(3) < dimensions) + 1
    b = g.transform_points(example_sim3(), a)
    found = align_sim3(a, b).truth_from_prediction
    torch.testing.assert_close(g.transform_points(found, a), b, rtol=0, atol=1e-12)
    assert torch.det(found[:3, :3]) == pytest.approx(2.5**3)
    if dimensions == 2:
        torch.testing.assert_close(found, example_sim3(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("align", ALL)
def test_empty_and_non_finite_points_raise_value_errors(align) -> None:
    with pytest.raises(ValueError, match="0 predicted and 0 true points"):
        align(torch.zeros(0, 3), torch.zeros(0, 3))
    bad = cloud().float()
    bad[3, 1], bad[5, 0], bad[5, 2] = torch.nan, torch.inf, torch.nan
    with pytest.raises(ValueError, match="2 of 40 predicted points are not finite"):
        align(bad, cloud().float())
    with pytest.raises(ValueError, match="2 of 40 true points are not finite"):
        align(cloud().float(), bad)


@pytest.mark.parametrize("align", [align_scale, align_scale_by_ratios])
def test_points_at_the_origin_have_no_median_scale(align) -> None:
    with pytest.raises(NoSolution, match="points lie at the origin"):
        align(torch.zeros(5, 3), cloud(5).float())
    with pytest.raises(NoSolution, match="points lie at the origin"):
        align(cloud(5).float(), torch.full((5, 3), 1e-13))
    predicted = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]])
    true = torch.tensor([[9.0, 0, 0], [9, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    assert (
        align(predicted, true).truth_from_prediction[0, 0] == 3
    )  # Two of five points are tolerated; their ratios are infinite.


def test_norms_do_not_overflow() -> None:
    far = cloud().float() * 1e25
    for align in (align_scale, align_scale_by_ratios):
        assert align(far, 2 * far).truth_from_prediction[0, 0] == 2


def test_alignment_applies_to_a_whole_scene() -> None:
    truth = make_scene(metres_per_unit=2.0)
    prediction = truth.transformed(example_sim3().float())
    points = corresponding_points(prediction, truth)
    aligned = align_sim3(*points).apply(prediction)
    torch.testing.assert_close(aligned.points, truth.points, rtol=0, atol=1e-5)
    torch.testing.assert_close(aligned.depths, truth.depths, rtol=0, atol=1e-5)
    torch.testing.assert_close(aligned.cameras.world_from_cam, truth.cameras.world_from_cam, rtol=0, atol=1e-5)
    torch.testing.assert_close(aligned.metres_per_unit, truth.metres_per_unit)


def test_a_float64_alignment_applies_to_a_float32_scene() -> None:
    scene = make_scene()
    assert align_sim3(cloud(), cloud()).apply(scene).points.dtype == torch.float32


def test_corresponding_points_are_known_in_both_scenes() -> None:
    truth, prediction = make_scene(), make_scene()
    truth, prediction = truth.map(torch.clone), prediction.map(torch.clone)
    truth.point_confidence[0, 0, 0] = 0
    prediction.point_confidence[1, 2, 3] = 0
    prediction.point_confidence[2, 1, 1] = 7.5
    a, b = corresponding_points(prediction, truth)
    assert len(a) == len(b) == 3 * 12 * 16 - 2
    torch.testing.assert_close(a, b)
