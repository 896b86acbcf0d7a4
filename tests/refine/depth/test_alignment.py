"""Tests of depth alignment: depth passes through points, keeps its detail, and is unchanged without points."""

from dataclasses import replace

import torch
from scenes import make_scene

from recon4d.records import Scene
from recon4d.refine.depth.alignment import (
    KERNEL_PRIOR,
    KERNEL_SCALES,
    SAME_SURFACE,
    PointDepths,
    _BilateralGrid,
    depth_errors,
    fit_depth_alignment,
    scale_depth,
)

HEIGHT, WIDTH = 48, 64


def lattice(step: int = 6) -> torch.Tensor:
    rows, columns = torch.arange(step / 2, HEIGHT, step), torch.arange(step / 2, WIDTH, step)
    return torch.cartesian_prod(rows, columns).flip(-1)


def points_on(depths: torch.Tensor, pixels: torch.Tensor) -> PointDepths:
    """Return points on true depth maps that every frame observes."""
    column, row = pixels.long().unbind(-1)
    values = depths[:, row, column]
    return PointDepths(pixels.expand(len(depths), -1, -1), values, torch.ones_like(values, dtype=torch.bool))


def slanted() -> torch.Tensor:
    """Return the depth of a receding ground plane with a box in front of it."""
    depths = torch.linspace(6, 2, HEIGHT)[:, None].expand(HEIGHT, WIDTH).clone()
    depths[16:32, 20:40] = 1.5
    return depths[None]


def error(depths: torch.Tensor, truth: torch.Tensor) -> float:
    return float((depths / truth).log().abs().mean())


def test_scale_contrast_and_slope_are_undone() -> None:
    truth = slanted()
    slope = torch.linspace(-0.3, 0.3, WIDTH).exp()
    wrong = 3 * truth**0.6 * slope
    factors = fit_depth_alignment(wrong, points_on(truth, lattice()))
    assert error(wrong, truth) > 0.5
    assert error(wrong * factors, truth) < 0.03


def test_an_error_on_one_side_of_an_edge_is_corrected_on_that_side_only() -> None:
    truth = slanted()
    wrong = truth.clone()
    wrong[0, 16:32, 20:40] = 1.2
    right = wrong * fit_depth_alignment(wrong, points_on(truth, lattice(4)))
    box = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    box[16:32, 20:40] = True
    assert error(right[:, box], truth[:, box]) < 0.25 * error(wrong[:, box], truth[:, box])
    assert error(right[:, ~box], truth[:, ~box]) < 0.02


def test_detail_between_points_stays() -> None:
    truth = slanted()
    ripples = 1 + 0.02 * torch.sin(torch.arange(WIDTH) * 2.0)
    right = 2 * truth * ripples
    aligned = right * fit_depth_alignment(right, points_on(truth, lattice()))
    kept = (aligned[0, 40] / truth[0, 40]).log()
    kept = kept - kept.mean()
    expected = ripples.log() - ripples.log().mean()
    assert torch.nn.functional.cosine_similarity(kept, expected, dim=0) > 0.6


def test_a_fifth_of_outliers_is_tolerated() -> None:
    truth = slanted()
    points = points_on(truth, lattice(4))
    generator = torch.Generator().manual_seed(0)
    is_wrong = torch.rand(points.depths.shape, generator=generator) < 0.2
    with_outliers = replace(points, depths=torch.where(is_wrong, points.depths * 4, points.depths))
    wrong = 2 * truth
    assert error(wrong * fit_depth_alignment(wrong, with_outliers), truth) < 0.06


def test_without_enough_points_nothing_changes() -> None:
    truth = slanted()
    few = points_on(truth, lattice()[:10])
    assert torch.equal(fit_depth_alignment(2 * truth, few), torch.ones_like(truth))
    unobserved = replace(points_on(truth, lattice()), is_valid=torch.zeros(1, len(lattice()), dtype=torch.bool))
    assert torch.equal(fit_depth_alignment(2 * truth, unobserved), torch.ones_like(truth))
    assert len(depth_errors(truth, unobserved)) == 0


def test_unknown_depth_stays_unknown_and_has_no_influence() -> None:
    truth = slanted()
    gaps = 2 * truth
    gaps[0, :10] = 0
    factors = fit_depth_alignment(gaps, points_on(truth, lattice()))
    assert factors.isfinite().all()
    assert (gaps * factors)[0, :10].abs().max() == 0
    assert error((gaps * factors)[:, 12:], truth[:, 12:]) < 0.1
    nothing = torch.zeros_like(truth)
    assert fit_depth_alignment(nothing, points_on(truth, lattice())).isfinite().all()
    assert depth_errors(gaps, points_on(truth, lattice())).isfinite().all()


def test_depth_errors_are_differences_of_log_depth() -> None:
    truth = slanted()
    torch.testing.assert_close(
        depth_errors(truth * 1.1, points_on(truth, lattice())), torch.full((len(lattice()),), 1.1).log()
    )
    assert (depth_errors(truth * 100, points_on(truth, lattice())) == 1).all()


def scaled_scene() -> tuple[Scene, Scene]:
    scene = make_scene(anchors=(0, 2))
    generator = torch.Generator().manual_seed(0)
    factors = 0.7 + 0.6 * torch.rand(scene.depths.shape, generator=generator)
    return scene, scale_depth(scene, factors)


def test_points_follow_from_scaled_depth() -> None:
    _, after = scaled_scene()
    torch.testing.assert_close(after.points, after.points_from_depth)


def test_static_tracks_stay_at_their_scaled_pixels() -> None:
    scene, after = scaled_scene()
    assert scene.tracks is not None
    assert after.tracks is not None
    torch.testing.assert_close(after.tracks.points, after.tracks.points[:, :1].expand_as(after.tracks.points))
    for place, anchor in enumerate(scene.tracks.anchors.tolist()):
        own = after.points[anchor].flatten(0, 1)
        torch.testing.assert_close(after.tracks.points[place, anchor], own, atol=1e-4, rtol=1e-4)


def test_the_grid_smooths_like_the_sum_over_all_points() -> None:
    generator = torch.Generator().manual_seed(0)
    places, at = torch.rand(200, 2, generator=generator) - 0.5, torch.rand(50, 2, generator=generator) - 0.5
    logs, logs_at = torch.rand(200, generator=generator), torch.rand(50, generator=generator)
    weights, values = torch.rand(200, generator=generator), torch.randn(200, generator=generator)
    scale = KERNEL_SCALES[0]
    smoothed = _BilateralGrid.create(places, logs, weights, values, scale).smooth(at, logs_at)
    distance = torch.cdist(at, places) / scale
    jump = (logs_at[:, None] - logs) / SAME_SURFACE
    kernel = weights * torch.exp(-0.5 * (distance.square() + jump.square()))
    expected = kernel @ values / (kernel.sum(dim=1) + KERNEL_PRIOR)
    torch.testing.assert_close(smoothed, expected, atol=0.1, rtol=0)
    assert torch.corrcoef(torch.stack([smoothed, expected]))[0, 1] > 0.99
