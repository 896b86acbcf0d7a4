"""Depth goes through points whose depth is known, keeps its detail, and stays as it is where nothing is known."""

from dataclasses import replace

import torch
from scenes import make_scene

from recon4d.records import Scene
from recon4d.refine.depth.alignment import (
    PointDepths,
    correlation,
    disagreement,
    fit_depth_alignment,
    scale_depth,
)

HEIGHT, WIDTH = 48, 64


def lattice(step: int = 6) -> torch.Tensor:
    rows, columns = torch.arange(step / 2, HEIGHT, step), torch.arange(step / 2, WIDTH, step)
    return torch.cartesian_prod(rows, columns).flip(-1)


def points_on(depths: torch.Tensor, pixels: torch.Tensor) -> PointDepths:
    """Points on true depth maps, seen in every frame."""
    column, row = pixels.long().unbind(-1)
    values = depths[:, row, column]
    return PointDepths(pixels.expand(len(depths), -1, -1), values, torch.ones_like(values, dtype=torch.bool))


def slanted() -> torch.Tensor:
    """Depth of a floor that recedes, with a box before it."""
    depths = torch.linspace(6, 2, HEIGHT)[:, None].expand(HEIGHT, WIDTH).clone()
    depths[16:32, 20:40] = 1.5
    return depths[None]


def off(depths: torch.Tensor, truth: torch.Tensor) -> float:
    return float((depths / truth).log().abs().mean())


def test_scale_contrast_and_slope_are_undone() -> None:
    truth = slanted()
    slope = torch.linspace(-0.3, 0.3, WIDTH).exp()
    wrong = 3 * truth**0.6 * slope
    factors = fit_depth_alignment(wrong, points_on(truth, lattice()))
    assert off(wrong, truth) > 0.5
    assert off(wrong * factors, truth) < 0.03


def test_what_is_wrong_on_one_side_of_an_edge_is_mended_there_alone() -> None:
    truth = slanted()
    wrong = truth.clone()
    wrong[0, 16:32, 20:40] = 1.2
    right = wrong * fit_depth_alignment(wrong, points_on(truth, lattice(4)))
    box = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    box[16:32, 20:40] = True
    assert off(right[:, box], truth[:, box]) < 0.25 * off(wrong[:, box], truth[:, box])
    assert off(right[:, ~box], truth[:, ~box]) < 0.02


def test_detail_between_points_stays() -> None:
    truth = slanted()
    ripples = 1 + 0.02 * torch.sin(torch.arange(WIDTH) * 2.0)
    right = 2 * truth * ripples
    mended = right * fit_depth_alignment(right, points_on(truth, lattice()))
    kept = (mended[0, 40] / truth[0, 40]).log()
    kept = kept - kept.mean()
    wanted = ripples.log() - ripples.log().mean()
    assert torch.nn.functional.cosine_similarity(kept, wanted, dim=0) > 0.6


def test_a_fifth_of_wrong_points_does_not_pull_the_rest_away() -> None:
    truth = slanted()
    points = points_on(truth, lattice(4))
    generator = torch.Generator().manual_seed(0)
    is_wrong = torch.rand(points.depths.shape, generator=generator) < 0.2
    spoilt = replace(points, depths=torch.where(is_wrong, points.depths * 4, points.depths))
    wrong = 2 * truth
    assert off(wrong * fit_depth_alignment(wrong, spoilt), truth) < 0.06


def test_without_enough_points_nothing_changes() -> None:
    truth = slanted()
    few = points_on(truth, lattice()[:10])
    assert torch.equal(fit_depth_alignment(2 * truth, few), torch.ones_like(truth))
    unseen = replace(points_on(truth, lattice()), known=torch.zeros(1, len(lattice()), dtype=torch.bool))
    assert torch.equal(fit_depth_alignment(2 * truth, unseen), torch.ones_like(truth))
    assert len(disagreement(truth, unseen)) == 0


def test_unknown_depth_stays_unknown_and_spoils_nothing() -> None:
    truth = slanted()
    gaps = 2 * truth
    gaps[0, :10] = 0
    factors = fit_depth_alignment(gaps, points_on(truth, lattice()))
    assert factors.isfinite().all()
    assert (gaps * factors)[0, :10].abs().max() == 0
    assert off((gaps * factors)[:, 12:], truth[:, 12:]) < 0.1
    nothing = torch.zeros_like(truth)
    assert fit_depth_alignment(nothing, points_on(truth, lattice())).isfinite().all()
    assert disagreement(gaps, points_on(truth, lattice())).isfinite().all()


def test_disagreement_is_the_difference_of_logs() -> None:
    truth = slanted()
    torch.testing.assert_close(
        disagreement(truth * 1.1, points_on(truth, lattice())), torch.full((len(lattice()),), 1.1).log()
    )
    assert (disagreement(truth * 100, points_on(truth, lattice())) == 1).all()


def test_correlation_is_of_what_is_near_and_far() -> None:
    truth = slanted()
    assert abs(correlation(3 * truth**0.5, points_on(truth, lattice())) - 1) < 1e-4
    assert abs(correlation(3 / truth, points_on(truth, lattice())) + 1) < 1e-4


def bent_scene() -> tuple[Scene, Scene]:
    scene = make_scene(anchors=(0, 2))
    generator = torch.Generator().manual_seed(0)
    factors = 0.7 + 0.6 * torch.rand(scene.depths.shape, generator=generator)
    return scene, scale_depth(scene, factors)


def test_points_follow_from_bent_depth() -> None:
    _, after = bent_scene()
    torch.testing.assert_close(after.points, after.points_from_depth)


def test_still_tracks_stay_where_their_bent_pixels_are() -> None:
    scene, after = bent_scene()
    assert scene.tracks is not None
    assert after.tracks is not None
    torch.testing.assert_close(after.tracks.points, after.tracks.points[:, :1].expand_as(after.tracks.points))
    for place, anchor in enumerate(scene.tracks.anchors.tolist()):
        own = after.points[anchor].flatten(0, 1)
        torch.testing.assert_close(after.tracks.points[place, anchor], own, atol=1e-4, rtol=1e-4)
