"""Losses of surface normals, as published."""

import math

import pytest
import torch
from loss_inputs import assert_no_effect, corrupt_invalid, everywhere, hilly_points, noise

from recon4d.geometry import pixel_grid, rotation_from_axis_angle
from recon4d.losses.normals import corner_normals, normal_angle_term, normal_cosine_terms
from recon4d.losses.term import Term, mean

HEIGHT, WIDTH = 10, 14


# Normals.


def test_normals_of_a_wall_face_the_camera() -> None:
    wall = torch.cat([pixel_grid(3, 4), torch.full((3, 4, 1), 5.0)], dim=-1)
    normals, exists = corner_normals(wall, everywhere(3, 4))
    assert normals.shape == (4, 2, 3, 3)
    assert exists.all()
    torch.testing.assert_close(normals, torch.tensor([0.0, 0.0, -1.0]).expand(4, 2, 3, 3))


def test_a_normal_needs_its_three_pixels() -> None:
    valid = everywhere(3, 3)
    valid[0, 0] = False
    exists = corner_normals(hilly_points(3, 3), valid)[1]
    # The upper left square keeps only the corner opposite to the missing pixel; the other squares are whole.
    assert exists[:, 0, 0].tolist() == [True, False, False, False]
    assert exists[:, 1, :].all()
    assert exists[:, 0, 1].all()


def test_each_corner_normal_comes_from_its_own_three_pixels() -> None:
    points = noise(2, 2, 3)
    normals, _ = corner_normals(points, everywhere(2, 2))
    (upper_left, upper_right), (lower_left, lower_right) = points
    corners = [
        (lower_right, upper_right, lower_left),
        (upper_right, upper_left, lower_right),
        (upper_left, lower_left, upper_right),
        (lower_left, lower_right, upper_left),
    ]
    for normal, (center, first, second) in zip(normals[:, 0, 0], corners, strict=True):
        expected = torch.linalg.cross(first - center, second - center)
        torch.testing.assert_close(normal, expected / expected.norm())


@pytest.mark.parametrize("degrees", [0.5, 2.0, 20.0, 120.0])
def test_a_rotated_surface_has_the_loss_of_its_angle(degrees: float) -> None:
    wall = torch.cat([pixel_grid(9, 9, dtype=torch.float64), torch.zeros(9, 9, 1, dtype=torch.float64)], dim=-1)
    turn = rotation_from_axis_angle(torch.tensor([math.radians(degrees), 0, 0], dtype=torch.float64))
    turned = wall @ turn.transpose(-1, -2)
    cosines = normal_cosine_terms(turned, wall, everywhere(9, 9))
    assert [term.count.item() for term in cosines] == [4 * 8 * 8, 4 * 4 * 4, 4 * 2 * 2]
    for term in cosines:
        torch.testing.assert_close(mean(term).item(), 1 - math.cos(math.radians(degrees)))
    clamped = math.radians(min(max(degrees, 1), 90))
    beta = math.radians(3)
    expected = clamped**2 / (2 * beta) if degrees < 3 else clamped - beta / 2
    torch.testing.assert_close(mean(normal_angle_term(turned, wall, everywhere(9, 9))).item(), expected)


def test_normal_losses_are_minimal_at_the_truth_up_to_scale_and_shift() -> None:
    true = hilly_points()
    valid = everywhere(HEIGHT, WIDTH)
    for answer in (true, 7 * true + torch.tensor([3.0, -2.0, 1.0])):
        for term in normal_cosine_terms(answer, true, valid):
            assert mean(term).abs() < 1e-9
        floor = math.radians(1) ** 2 / (2 * math.radians(3))
        torch.testing.assert_close(mean(normal_angle_term(answer, true, valid)).item(), floor)
    disturbed = true + 0.01 * noise(HEIGHT, WIDTH, 3)
    assert mean(normal_cosine_terms(disturbed, true, valid)[0]) > 1e-3
    assert mean(normal_angle_term(disturbed, true, valid)) > 2 * floor


def test_normal_gradients_equal_finite_differences() -> None:
    true, start = hilly_points(5, 6), (hilly_points(5, 6) + 0.1 * noise(5, 6, 3)).requires_grad_()
    valid = everywhere(5, 6)
    valid[2, 3] = False

    def loss(predicted: torch.Tensor) -> torch.Tensor:
        cosines = torch.stack([mean(term) for term in normal_cosine_terms(predicted, true, valid)])
        return cosines.sum() + mean(normal_angle_term(predicted, true, valid))

    assert torch.autograd.gradcheck(loss, (start,))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_invalid_pixels_have_no_effect_on_normals(wrong: float) -> None:
    true, valid = hilly_points(), everywhere(HEIGHT, WIDTH)
    valid[4, 5] = False
    start = (true + 0.01 * noise(HEIGHT, WIDTH, 3)).requires_grad_()

    def terms(predicted: torch.Tensor, truth: torch.Tensor) -> list[Term]:
        return [*normal_cosine_terms(predicted, truth, valid), normal_angle_term(predicted, truth, valid)]

    corrupted = corrupt_invalid(start, true, valid, wrong)
    for clean, dirty in zip(terms(start, true), terms(*corrupted), strict=True):
        torch.testing.assert_close(dirty.total, clean.total)
        torch.testing.assert_close(dirty.count, clean.count)
        assert torch.autograd.grad(dirty.total, start, retain_graph=True)[0].isfinite().all()
    bad, nothing = torch.full_like(true, wrong).requires_grad_(), torch.zeros_like(valid)
    assert_no_effect((*normal_cosine_terms(bad, true, nothing), normal_angle_term(bad, true, nothing)), bad)


def test_degenerate_points_have_the_largest_loss_and_no_gradient() -> None:
    true, valid = hilly_points(), everywhere(HEIGHT, WIDTH)
    on_a_line = torch.cat([pixel_grid(HEIGHT, WIDTH, dtype=torch.float64)[..., :1].expand(-1, -1, 3)], dim=-1)
    for collapsed in (torch.ones_like(true), on_a_line.contiguous()):
        collapsed.requires_grad_()
        cosine, angle = normal_cosine_terms(collapsed, true, valid)[0], normal_angle_term(collapsed, true, valid)
        assert mean(cosine) == 1
        torch.testing.assert_close(mean(angle).item(), math.radians(88.5))
        assert (torch.autograd.grad(cosine.total + angle.total, collapsed)[0] == 0).all()
    # Degenerate true points have no normals to compare.
    assert normal_angle_term(true, torch.ones_like(true), valid).count == 0
    assert normal_cosine_terms(true, on_a_line, valid)[0].count == 0
