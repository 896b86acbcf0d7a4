"""Losses of points after alignment, globally and in patches, as published."""

import math

import pytest
import torch
from loss_inputs import assert_no_effect, corrupt_invalid, everywhere, hilly_points, noise

from recon4d.geometry import pixel_grid
from recon4d.losses.confidence_regression import (
    confidence_terms,
    gradient_terms,
)
from recon4d.losses.local_alignment import (
    ALONG_ALL,
    ALONG_Z,
    affine_invariant_point_term,
    align_scale_and_shift,
    local_point_terms,
    patch_pixels,
    sample_patch_centers,
)
from recon4d.losses.normals import normal_angle_term, normal_cosine_terms
from recon4d.losses.term import Term, mean

HEIGHT, WIDTH = 10, 14


# Affine alignment.


def cost_of(points: torch.Tensor, true: torch.Tensor, weights: torch.Tensor, fit: torch.Tensor) -> torch.Tensor:
    """Compute the truncated weighted L1 distance of one image; `fit` is (s, tx, ty, tz)."""
    residual = weights[:, None] * (fit[0] * points + fit[1:] - true).abs()
    return residual.clamp(max=1).sum()


@pytest.mark.parametrize("axes", [ALONG_Z, ALONG_ALL])
def test_alignment_finds_scale_and_shift_among_outliers(axes: tuple[float, float, float]) -> None:
    points = noise(3, 200, 3) + torch.tensor([0.0, 0.0, 4.0])
    scale = torch.tensor([0.3, 1.0, 5.0], dtype=torch.float64)
    shift = noise(3, 3, seed=1) * torch.tensor(axes)
    true = scale[:, None, None] * points + shift[:, None]
    true[:, :60] += 50 * noise(3, 60, 3, seed=2)
    found_scale, found_shift = align_scale_and_shift(points, true, torch.ones(3, 200, dtype=torch.float64), axes)
    torch.testing.assert_close(found_scale, scale)
    torch.testing.assert_close(found_shift, shift, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("axes", [ALONG_Z, ALONG_ALL])
def test_alignment_is_near_the_best_that_a_search_finds(axes: tuple[float, float, float]) -> None:
    points = noise(1, 60, 3) + torch.tensor([0.0, 0.0, 4.0])
    true = 2 * points + 0.3 * noise(1, 60, 3, seed=3) + torch.tensor([0.0, 0.0, 1.0])
    true[:, :15] += 5 * noise(1, 15, 3, seed=4)
    weights = 0.2 + torch.rand(1, 60, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    scale, shift = align_scale_and_shift(points, true, weights, axes)
    found = torch.cat([scale, shift[0]])
    mine = cost_of(points[0], true[0], weights[0], found)
    best, width = mine, 0.1
    generator = torch.Generator().manual_seed(6)
    center, free = found, torch.tensor([1.0, *axes], dtype=torch.float64)
    for _ in range(3000):
        tried = center + width * free * torch.randn(4, generator=generator, dtype=torch.float64)
        cost = cost_of(points[0], true[0], weights[0], tried)
        if cost < best:
            best, center = cost, tried
        width = max(0.999 * width, 1e-3)
    assert best > 0.99 * mine
    assert (shift[0] * (1 - free[1:]) == 0).all()


def test_refinement_improves_on_the_best_pivot(monkeypatch: pytest.MonkeyPatch) -> None:
    points = noise(20, 60, 3) + torch.tensor([0.0, 0.0, 4.0])
    true = 2 * points + 0.3 * noise(20, 60, 3, seed=3)
    weights = torch.ones(20, 60, dtype=torch.float64)

    def costs() -> torch.Tensor:
        scale, shift = align_scale_and_shift(points, true, weights, ALONG_ALL)
        fits = torch.cat([scale[:, None], shift], dim=-1)
        return torch.stack([cost_of(*each) for each in zip(points, true, weights, fits, strict=True)])

    refined = costs()
    monkeypatch.setattr("recon4d.losses.local_alignment.REFINEMENTS", 0)
    unrefined = costs()
    assert (refined <= unrefined).all()
    assert (refined < 0.999 * unrefined).sum() > 10


def test_alignment_uses_weights() -> None:
    points = noise(1, 100, 3)
    true = torch.cat([points[:, :40] * 2, points[:, 40:] * 3], dim=1)
    weights = torch.cat([torch.full((1, 40), 5.0), torch.full((1, 60), 0.5)], dim=1).double()
    assert align_scale_and_shift(points, true, weights, ALONG_ALL)[0] == pytest.approx(2)
    assert align_scale_and_shift(points, true, weights.flip(-1), ALONG_ALL)[0] != pytest.approx(2)
    weights[:, :40] = 0
    assert align_scale_and_shift(points, true, weights, ALONG_Z)[0] == pytest.approx(3)


def test_alignment_never_mirrors_and_handles_degenerate_points() -> None:
    points = noise(1, 50, 3)
    ones = torch.ones(1, 50, dtype=torch.float64)
    assert align_scale_and_shift(points, -points, ones, ALONG_ALL)[0] > 0
    same_place = torch.ones_like(points) + 1e-7 * noise(1, 50, 3, seed=1)
    scale, shift = align_scale_and_shift(same_place, points, ones, ALONG_ALL)
    assert scale == 1
    torch.testing.assert_close(shift, points.mean(dim=1) - 1, atol=1e-6, rtol=0)
    scale, shift = align_scale_and_shift(points, 2 * points, 0 * ones, ALONG_ALL)
    assert scale == 1
    assert (shift == 0).all()


def test_the_global_term_is_invariant_to_scale_and_shift_along_z_only() -> None:
    true = torch.stack([hilly_points(), 2 * hilly_points()])
    valid = everywhere(2, HEIGHT, WIDTH)

    def value(predicted: torch.Tensor) -> float:
        return mean(affine_invariant_point_term(predicted, true, valid)).item()

    scales = torch.tensor([0.5, 3.0], dtype=torch.float64)[:, None, None, None]
    shifted = scales * true + torch.tensor([0.0, 0.0, 2.0])
    assert value(true) < 1e-9
    assert value(shifted) < 1e-6
    assert value(shifted + torch.tensor([0.5, 0.0, 0.0])) > 0.01
    assert value(true + 0.1 * noise(2, HEIGHT, WIDTH, 3)) > 0.01
    assert value(true * torch.tensor([1.0, 1.0, 1.3])) > 0.01


def test_the_global_term_is_relative_to_depth() -> None:
    # Half of the points are exact, so the alignment is the identity; the others are 0.1 off along x.
    true = hilly_points()
    predicted = true.clone()
    off = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    off[::3] = True
    predicted[off] += torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64)
    term = affine_invariant_point_term(predicted, true, everywhere(HEIGHT, WIDTH))
    assert term.count == HEIGHT * WIDTH
    torch.testing.assert_close(term.total, (0.1 / true[..., 2])[off].sum(), rtol=1e-4, atol=1e-6)
    scaled = affine_invariant_point_term(predicted, 100 * true, everywhere(HEIGHT, WIDTH))
    torch.testing.assert_close(scaled.total, term.total, rtol=1e-3, atol=1e-6)


def test_weights_of_close_points_are_bounded() -> None:
    true = hilly_points()
    true[0, 0, 2] = 1e-9
    valid = everywhere(HEIGHT, WIDTH)
    valid[5:] = False
    predicted = true.clone()
    predicted[0, 0, 0] += 0.1
    median = (1 / true[..., 2])[valid].median().item()
    total = affine_invariant_point_term(predicted, true, valid).total
    torch.testing.assert_close(total.item(), 0.1 * 10 * median, rtol=0.02, atol=0)


def test_images_with_few_points_are_left_out() -> None:
    valid = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    valid[0, :2] = True  # 28 points
    valid[1, :3] = True  # 42 points
    true = hilly_points().expand(2, -1, -1, -1)
    assert affine_invariant_point_term(true, true, valid).count == 42
    behind = true * torch.tensor([1.0, 1.0, -1.0])
    assert affine_invariant_point_term(true, behind, everywhere(2, HEIGHT, WIDTH)).count == 0


def test_no_gradient_flows_through_the_alignment() -> None:
    true, valid = hilly_points(), everywhere(HEIGHT, WIDTH)
    start = (0.7 * true + 0.1 * noise(HEIGHT, WIDTH, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(affine_invariant_point_term(start, true, valid).total, start)
    weights = 1 / true[..., 2]
    scale, shift = align_scale_and_shift(
        start.detach().reshape(1, -1, 3), true.reshape(1, -1, 3), weights.reshape(1, -1), ALONG_Z
    )
    side = (scale * start + shift - true).sign()
    torch.testing.assert_close(gradient, scale * weights[..., None] * side)


def test_gradient_descent_finds_the_shape_up_to_scale() -> None:
    true, valid = hilly_points(), everywhere(HEIGHT, WIDTH)
    predicted = (0.4 * true + 0.05 * noise(HEIGHT, WIDTH, 3)).requires_grad_()
    optimizer = torch.optim.Adam([predicted], lr=3e-3)
    values = []
    for _ in range(60):
        loss = mean(affine_invariant_point_term(predicted, true, valid))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.3 * values[0]


FOCAL = torch.tensor(40.0, dtype=torch.float64)


def test_local_terms_are_invariant_to_scale_and_shift() -> None:
    true = hilly_points(40, 48)
    valid = everywhere(40, 48)
    moved = 0.3 * true + torch.tensor([5.0, -3.0, 2.0])
    for term in local_point_terms(moved, true, valid, FOCAL, torch.Generator().manual_seed(0)):
        assert mean(term) < 1e-6
    disturbed = true + 0.05 * noise(40, 48, 3)
    coarse, middle, fine = local_point_terms(disturbed, true, valid, FOCAL, torch.Generator().manual_seed(0))
    assert mean(coarse) > 0.005
    assert coarse.count > 16 * 32
    # The middle radius is under 2 pixels here, and the fine one under 1: no patch holds 32 points.
    assert middle.count == fine.count == 0


def test_a_depth_jump_between_objects_does_not_affect_local_terms() -> None:
    # The right half is twice as far, and the prediction gets each half right but not the jump between them.
    true = torch.cat([pixel_grid(40, 48, dtype=torch.float64) / 20, torch.ones(40, 48, 1, dtype=torch.float64)], dim=-1)
    true[:, 24:] *= 20
    predicted = true.clone()
    predicted[:, 24:] = 0.5 * predicted[:, 24:] + 1
    valid = everywhere(40, 48)
    coarse = local_point_terms(predicted, true, valid, FOCAL, torch.Generator().manual_seed(0))[0]
    assert coarse.count > 200
    assert mean(coarse) < 1e-6
    assert mean(affine_invariant_point_term(predicted, true, valid)) > 0.05


def test_a_patch_is_a_ball_in_space() -> None:
    """With a long focal length the ball is small, and no patch has enough points."""
    true, valid = hilly_points(40, 48), everywhere(40, 48)
    counts = [
        local_point_terms(true, true, valid, focal * torch.ones((), dtype=torch.float64), generator)[0].count
        for focal in (1.0, 40.0, 400.0)
        for generator in [torch.Generator().manual_seed(0)]
    ]
    assert counts[0] > counts[1] > counts[2] == 0
    # With a large ball, the count is that of the pixels in the square around each center.
    radius = 0.5 * math.hypot(40, 48) / 4
    anchors, _ = sample_patch_centers(valid.reshape(1, -1), torch.Generator().manual_seed(0))
    assert counts[0] == patch_pixels(anchors, (40, 48), radius)[1].sum()


def test_patches_are_relative_to_depth_and_the_error_by_hand() -> None:
    true = hilly_points(40, 48)
    predicted = true + 0.02 * noise(40, 48, 3)
    term = local_point_terms(predicted, true, everywhere(40, 48), FOCAL, torch.Generator().manual_seed(1))[0]
    larger = local_point_terms(predicted, 8 * true, everywhere(40, 48), FOCAL, torch.Generator().manual_seed(1))[0]
    torch.testing.assert_close(larger.count, term.count)
    torch.testing.assert_close(mean(larger), mean(term), rtol=1e-3, atol=0)
    # Three coordinates, each off by .02 * sqrt(2 / pi) on average, at a depth of about 3.
    assert mean(term).item() == pytest.approx(3 * 0.02 * 0.8 / 3, rel=0.15)


def test_patch_centers_are_random_valid_pixels() -> None:
    valid = torch.zeros(2, 300, dtype=torch.bool)
    valid[0, 100:200] = True
    valid[1, 7:12] = True
    anchors, exists = sample_patch_centers(valid, torch.Generator().manual_seed(0))
    again, _ = sample_patch_centers(valid, torch.Generator().manual_seed(0))
    other, _ = sample_patch_centers(valid, torch.Generator().manual_seed(1))
    assert torch.equal(anchors, again)
    assert not torch.equal(anchors[0], other[0])
    assert exists.sum(dim=-1).tolist() == [16, 5]
    assert valid[0, anchors[0]].all()
    assert len(set(anchors[0].tolist())) == 16
    assert sorted(anchors[1, exists[1]].tolist()) == [7, 8, 9, 10, 11]


def test_a_patch_covers_the_square_around_its_center_inside_the_image() -> None:
    anchors = torch.tensor([[0, 5 * 12 + 6]])
    pixels, inside = patch_pixels(anchors, (10, 12), 2.7)
    assert pixels.shape == (1, 2, 25)
    assert sorted(pixels[0, 0, inside[0, 0]].tolist()) == [0, 1, 2, 12, 13, 14, 24, 25, 26]
    middle = [(row * 12 + column) for row in range(3, 8) for column in range(4, 9)]
    assert sorted(pixels[0, 1].tolist()) == middle
    assert inside[0, 1].all()
    corner = patch_pixels(torch.tensor([[10 * 12 - 1]]), (10, 12), 1.0)
    assert sorted(corner[0][corner[1]].tolist()) == [106, 107, 118, 119]
    wide, _ = patch_pixels(torch.tensor([[50 * 100 + 50]]), (100, 100), 40.0)
    assert wide.shape[-1] == 16 * 16
    assert wide.min() == 10 * 100 + 10
    assert wide.max() == 90 * 100 + 90


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_invalid_points_have_no_effect_on_alignment(wrong: float) -> None:
    true, valid = hilly_points(40, 48), everywhere(40, 48)
    valid[10:15, 20:30] = False
    start = (true + 0.02 * noise(40, 48, 3)).requires_grad_()

    def terms(predicted: torch.Tensor, truth: torch.Tensor, where: torch.Tensor) -> tuple[Term, ...]:
        local = local_point_terms(predicted, truth, where, FOCAL, torch.Generator().manual_seed(0))
        return (affine_invariant_point_term(predicted, truth, where), *local)

    corrupted = corrupt_invalid(start, true, valid, wrong)
    for clean, dirty in zip(terms(start, true, valid), terms(*corrupted, valid), strict=True):
        torch.testing.assert_close(dirty.total, clean.total)
        torch.testing.assert_close(dirty.count, clean.count)
        gradient = torch.autograd.grad(dirty.total, start, retain_graph=True)[0]
        assert gradient.isfinite().all()
        assert (gradient[~valid] == 0).all()
    bad = torch.full_like(true, wrong).requires_grad_()
    assert_no_effect(terms(bad, torch.full_like(true, wrong), torch.zeros_like(valid)), bad)


def test_added_losses_have_added_gradients() -> None:
    true, valid = hilly_points(), everywhere(HEIGHT, WIDTH)
    predicted = (true + 0.1 * noise(HEIGHT, WIDTH, 3)).requires_grad_()
    confidence = torch.full((HEIGHT, WIDTH), 2.0, dtype=torch.float64)

    def losses() -> list[torch.Tensor]:
        terms = [
            *confidence_terms(predicted, true, confidence, valid),
            *gradient_terms(predicted, true, valid),
            *normal_cosine_terms(predicted, true, valid),
            normal_angle_term(predicted, true, valid),
            affine_invariant_point_term(predicted, true, valid),
        ]
        return [mean(term) for term in terms]

    torch.stack(losses()).sum().backward()
    assert predicted.grad is not None
    together = predicted.grad.clone()
    predicted.grad = None
    for index in range(len(losses())):
        losses()[index].backward()
    torch.testing.assert_close(predicted.grad, together)
