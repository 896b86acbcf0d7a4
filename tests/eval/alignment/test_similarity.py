"""Tests of alignment by similarity transforms: closed forms, median scales and RANSAC."""

import itertools

import numpy as np
import pytest
import torch
from scenes import make_scene
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from recon4d import geometry as g
from recon4d.eval.alignment import ransac
from recon4d.eval.alignment.ransac import InverseDepthFit, align_inverse_depth, align_sim3_ransac
from recon4d.eval.alignment.similarity import (
    align_scale,
    align_scale_by_ratios,
    align_se3,
    align_sim3,
    corresponding_points,
    no_alignment,
)
from recon4d.refine.no_solution import NoSolution

CLOSED_FORMS = [align_sim3, align_se3]
ALL = [align_scale, align_scale_by_ratios, align_sim3, align_se3]


def cloud(count: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example_sim3(scale: float = 2.5) -> torch.Tensor:
    rotation = g.rotation_from_axis_angle(torch.tensor([0.4, -0.7, 1.1], dtype=torch.float64))
    return g.similarity(torch.tensor(scale).double(), rotation, torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64))


def residual(aligned: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    return float((g.transform_points(aligned, a) - b).square().sum())


def assert_is_translation(aligned: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    wanted = torch.eye(4).to(b)
    wanted[:3, 3] = b.mean(dim=0) - a.mean(dim=0).to(b)
    torch.testing.assert_close(aligned, wanted, rtol=1e-6, atol=1e-6)


# Exact cases


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


@pytest.mark.parametrize("align", CLOSED_FORMS)
def test_far_float32_points_are_fitted_in_float64(align) -> None:
    a = (cloud() + 1e4).float()
    b = g.transform_points(example_sim3().float(), a)
    exact = align(a.double(), b.double()).truth_from_prediction.float()
    torch.testing.assert_close(align(a, b).truth_from_prediction, exact, rtol=0, atol=0)


def test_a_rigid_motion_is_recovered_and_the_scale_kept() -> None:
    moved = g.transform_points(example_sim3(1.0), cloud())
    found = align_se3(cloud(), moved)
    torch.testing.assert_close(found.truth_from_prediction, example_sim3(1.0), rtol=0, atol=1e-13)
    assert g.similarity_scale(align_se3(cloud(), 3 * moved).truth_from_prediction) == pytest.approx(1, abs=1e-13)
    assert found.name == "se3"


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


def test_both_median_scales_differ_for_non_uniform_errors() -> None:
    """With heavy-tailed radii and noise of constant size, points near the origin have large ratios."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4001, 3)) * rng.lognormal(0, 1, (4001, 1))
    predicted = true / 2 + 0.5 * rng.normal(size=(4001, 3))
    norms_p, norms_g = np.linalg.norm(predicted, axis=1), np.linalg.norm(true, axis=1)
    scales = [
        float(align(torch.from_numpy(predicted), torch.from_numpy(true)).truth_from_prediction[0, 0])
        for align in (align_scale, align_scale_by_ratios)
    ]
    assert scales[0] == pytest.approx(np.median(norms_g) / np.median(norms_p), rel=1e-12)
    assert scales[1] == pytest.approx(np.median(norms_g / norms_p), rel=1e-12)
    assert scales[1] / scales[0] > 1.05


# Reference solutions


@pytest.mark.parametrize("seed", range(5))
def test_rotation_equals_scipy(seed: int) -> None:
    a, b = cloud(20, seed), cloud(20, seed + 100) + cloud(20, seed) @ example_sim3()[:3, :3].T
    expected, _ = Rotation.align_vectors((b - b.mean(0)).numpy(), (a - a.mean(0)).numpy())
    for align in CLOSED_FORMS:
        fitted = align(a, b).truth_from_prediction
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
    starts = rng.normal(size=(12, 7)) * 2
    sim3 = min(minimize(lambda x: squared_error(x, np.exp(x[6])), start).fun for start in starts)
    se3 = min(minimize(lambda x: squared_error(x, 1.0), start[:6]).fun for start in starts)
    assert residual(align_sim3(a, b).truth_from_prediction, a, b) == pytest.approx(sim3, rel=1e-8)
    assert residual(align_se3(a, b).truth_from_prediction, a, b) == pytest.approx(se3, rel=1e-8)


def test_alignment_is_invariant_to_a_similarity_of_the_prediction_and_the_order_of_points() -> None:
    a, b = cloud(), cloud(seed=1) + cloud()
    moved = g.transform_points(example_sim3(0.2), a)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    aligned = g.transform_points(align_sim3(a, b).truth_from_prediction, a)
    again = g.transform_points(align_sim3(moved[order], b[order]).truth_from_prediction, moved)
    torch.testing.assert_close(again, aligned, rtol=0, atol=1e-12)


# Degenerate input


@pytest.mark.parametrize("align", CLOSED_FORMS)
def test_one_point_or_coinciding_points_determine_only_the_translation(align) -> None:
    one = cloud(1)
    assert_is_translation(align(one, one + 2).truth_from_prediction, one, one + 2)
    points, place = cloud(6), torch.tensor([[0.1, 70.3, -5.7]], dtype=torch.float64).expand(6, 3)
    for a, b in [(points, place), (place, points), (place, place + 1), (place.float(), points.float())]:
        assert_is_translation(align(a, b).truth_from_prediction, a, b)


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


@pytest.mark.parametrize("align", CLOSED_FORMS)
def test_mirrored_clouds_are_never_reflected(align) -> None:
    a = cloud(200)
    found = align(a, a * torch.tensor([1.0, 1.0, -1.0])).truth_from_prediction
    scale = g.similarity_scale(found)
    torch.testing.assert_close(found[:3, :3] @ found[:3, :3].T, scale**2 * torch.eye(3).double(), atol=1e-12, rtol=0)
    assert torch.det(found[:3, :3]) == pytest.approx(float(scale**3))


def test_the_scale_of_a_mirrored_cloud_follows_umeyama() -> None:
    """The last singular value is subtracted (eq. 42): the scale is (s1 + s2 - s3) / variance."""
    a = cloud(200)
    singular = np.linalg.eigvalsh(np.cov(a.numpy().T, bias=True))
    found = align_sim3(a, a * torch.tensor([1.0, 1.0, -1.0])).truth_from_prediction
    # Mirroring does not change the singular values of the covariance.
    assert g.similarity_scale(found) == pytest.approx((singular[2] + singular[1] - singular[0]) / singular.sum())


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


# Scenes


def test_alignment_applies_to_a_whole_scene() -> None:
    truth = make_scene(metres_per_unit=2.0)
    prediction = truth.transformed(example_sim3().float())
    points = corresponding_points(prediction, truth)
    aligned = align_sim3(*points).apply(prediction)
    torch.testing.assert_close(aligned.points, truth.points, rtol=0, atol=1e-5)
    torch.testing.assert_close(aligned.depths, truth.depths, rtol=0, atol=1e-5)
    torch.testing.assert_close(aligned.cameras.world_from_cam, truth.cameras.world_from_cam, rtol=0, atol=1e-5)
    torch.testing.assert_close(aligned.metres_per_unit, truth.metres_per_unit)
    assert no_alignment().count == 0
    torch.testing.assert_close(no_alignment().apply(prediction).points, prediction.points, rtol=0, atol=0)


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


# RANSAC for similarity transforms


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
    samples = torch.cat(list(ransac._hypotheses(np.random.default_rng(0), 5, 3, torch.device("cpu"))))
    assert samples.shape == (1000, 3)
    assert all(len(set(sample)) == 3 for sample in samples.tolist())
    assert set(samples.flatten().tolist()) == set(range(5))
    triples = {tuple(sample) for sample in samples.tolist()}
    assert len(triples) == 60  # every ordered triple
    for column in samples.T:
        assert torch.bincount(column).min() > 150  # of 200


# Inverse depth


def test_an_inverse_depth_line_is_found_among_outliers() -> None:
    """1 / depth = 2 * x + 0.1 at three quarters of the pixels."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 1, 400)
    depths = 1 / (2 * x + 0.1)
    depths[:100] = rng.uniform(0.1, 0.3, 100)
    fit = align_inverse_depth(torch.from_numpy(x), torch.from_numpy(depths), 0)
    line = InverseDepthFit(2.0, 0.1, 0)
    assert fit.scale == pytest.approx(line.scale, rel=0.05)
    assert fit.offset == pytest.approx(line.offset, abs=0.05)
    assert 300 <= fit.count < 320
    torch.testing.assert_close(line.apply(torch.tensor([[0.5, 2.0]])), torch.tensor([[1.1, 4.1]]))
    assert align_inverse_depth(torch.from_numpy(x), torch.from_numpy(depths), 0) == fit


def test_exact_inverse_depth_gives_the_identity() -> None:
    depths = torch.linspace(1, 9, 50, dtype=torch.float64)
    fit = align_inverse_depth(1 / depths, depths, 3)
    assert (fit.scale, fit.offset, fit.count) == (pytest.approx(1), pytest.approx(0, abs=1e-12), 50)


def test_the_line_is_the_refitted_best_of_all_pairs() -> None:
    """The reference tries all 28 pairs of 8 pixels and fits NumPy's polynomial to the inliers of the best."""
    rng = np.random.default_rng(4)
    x, depths = rng.uniform(0.1, 1, 8), rng.uniform(1, 5, 8)
    y = 1 / depths
    lower_median = lambda values: np.sort(values)[(len(values) - 1) // 2]  # noqa: E731
    threshold = lower_median(abs(y - lower_median(y)))
    sets = set()
    for i, j in itertools.combinations(range(8), 2):
        slope = (y[j] - y[i]) / (x[j] - x[i])
        if slope > 0:
            inliers = np.flatnonzero(abs(y[i] + slope * (x - x[i]) - y) < threshold)
            sets.add((len(inliers), tuple(inliers)))
    most = max(sets)[0]
    fit = align_inverse_depth(torch.from_numpy(x), torch.from_numpy(depths), 0)
    lines = [np.polyfit(x[list(inliers)], y[list(inliers)], 1) for count, inliers in sets if count == most]
    assert fit.count == most
    assert any(np.allclose((fit.scale, fit.offset), line) for line in lines)


def test_a_mostly_constant_truth_is_fitted() -> None:
    """Most pixels have depth 2 and the same prediction, so the median deviation is 0; the other two are on the line."""
    x = torch.tensor([1.0] * 6 + [2.0, 3.0], dtype=torch.float64)
    depths = torch.tensor([2.0] * 6 + [1.0, 2 / 3], dtype=torch.float64)  # inverse 0.5, 1, 1.5
    fit = align_inverse_depth(x, depths)
    assert (fit.scale, fit.offset, fit.count) == (pytest.approx(0.5), pytest.approx(0, abs=1e-9), 8)


def test_uncorrelated_and_anticorrelated_predictions_give_a_constant() -> None:
    depths = torch.tensor([1.0, 2.0, 4.0, 5.0, 10.0])
    constant = InverseDepthFit(0.0, 0.25, 0)
    assert align_inverse_depth(torch.full((5,), 3.0), depths) == constant
    assert align_inverse_depth(-1 / depths, depths) == constant
    assert align_inverse_depth(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 4.0])) == constant


def test_a_decreasing_refined_line_is_rejected() -> None:
    """For some seeds an increasing pair has the most inliers, but least squares over them decreases."""
    found = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        x, depths = torch.from_numpy(rng.normal(size=6)), torch.from_numpy(rng.uniform(1, 3, 6))
        fit = align_inverse_depth(x, depths)
        assert fit.scale > 0 or fit == InverseDepthFit(0.0, float((1 / depths).median()), 0)
        found += fit.scale == 0
    assert found > 0


def test_unsuitable_depths_raise_value_errors() -> None:
    with pytest.raises(ValueError, match="1 predicted inverse depths and 1 true depths"):
        align_inverse_depth(torch.ones(1), torch.ones(1))
    for x, depth in [(torch.nan, 1.0), (1.0, torch.nan), (1.0, 0.0), (1.0, -2.0), (torch.inf, 1.0), (1.0, torch.inf)]:
        with pytest.raises(ValueError, match="1 of 3 pixels"):
            align_inverse_depth(torch.tensor([1.0, 2.0, x]), torch.tensor([1.0, 2.0, depth]))
