"""Photometric consistency of warped frames."""

import math

import pytest
import torch
from exact_walls import exact_scene, painted, unoccluded, zeros
from scenes import HEIGHT, WIDTH

from recon4d.losses.photometric import (
    best_neighbor_photometric_term,
    photometric_errors,
    structural_similarity,
    warped_photometric_errors,
)
from recon4d.losses.warping import (
    warp_static,
)

SIZE = (HEIGHT, WIDTH)


# Photometric consistency.


def test_equal_images_have_neither_loss_nor_gradient() -> None:
    image = painted(exact_scene())[0].requires_grad_()
    errors = photometric_errors(image, image.detach(), torch.ones(*SIZE, dtype=torch.bool))
    assert errors.abs().max() < 1e-12
    assert torch.autograd.grad(errors.sum(), image)[0].abs().max() < 1e-9


def test_photometric_errors_of_constant_images_by_hand() -> None:
    dark, bright = torch.full((3, 5, 6), 0.2, dtype=torch.float64), torch.full((3, 5, 6), 0.6, dtype=torch.float64)
    errors = photometric_errors(dark, bright, torch.ones(5, 6, dtype=torch.bool))
    luminance = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    expected = 0.85 * (1 - luminance) / 2 + 0.15 * (math.sqrt(0.4**2 + 1e-6) - 1e-3)
    torch.testing.assert_close(errors, torch.full((5, 6), expected, dtype=torch.float64))


def test_similarity_of_a_window_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    valid = torch.ones(3, 3, dtype=torch.bool)
    valid[0, 2] = valid[2, 1] = False

    def expected(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mean_x, mean_y = x.mean(), y.mean()
        covariance = ((x - mean_x) * (y - mean_y)).mean()
        contrast = (2 * covariance + 9e-4) / (x.var(correction=0) + y.var(correction=0) + 9e-4)
        return contrast * (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)

    found = structural_similarity(a, b, valid)[0]
    torch.testing.assert_close(found[1, 1], expected(a[0][valid], b[0][valid]))
    corner = valid.clone()
    corner[2] = corner[:, 2] = False
    torch.testing.assert_close(found[0, 0], expected(a[0][corner], b[0][corner]))
    assert (structural_similarity(a, b, torch.zeros_like(valid)) == 1).all()


def test_brightness_changes_cost_less_than_noise() -> None:
    image = painted(exact_scene())[0]
    valid = torch.ones(*SIZE, dtype=torch.bool)
    brighter = photometric_errors(image, image + 0.05, valid).mean()
    shuffled = photometric_errors(image, image + 0.05 * torch.sign(torch.randn_like(image)), valid).mean()
    assert 0 < brighter < 0.5 * shuffled


def test_photometric_gradients_equal_finite_differences() -> None:
    image, other = painted(exact_scene())[0, :, :4, :5], painted(exact_scene())[2, :, :4, :5]
    valid = torch.ones(4, 5, dtype=torch.bool)
    valid[1, 2] = False

    def loss(changed: torch.Tensor) -> torch.Tensor:
        return photometric_errors(image, changed, valid).sum()

    assert torch.autograd.gradcheck(loss, (other.clone().requires_grad_(),))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_invalid_colors_may_be_anything(wrong: float) -> None:
    image, other = painted(exact_scene())[0], painted(exact_scene())[2]
    valid = torch.ones(*SIZE, dtype=torch.bool)
    valid[3, 4] = False
    clean = photometric_errors(image, other, valid)
    corrupted = torch.where(valid, other, wrong).requires_grad_()
    errors = photometric_errors(torch.where(valid, image, wrong), corrupted, valid)
    torch.testing.assert_close(errors, clean)
    assert errors[3, 4] == 0
    assert photometric_errors(image, image + wrong, torch.zeros_like(valid)).abs().max() == 0
    only = torch.zeros_like(valid)
    only[3, 5] = True
    assert photometric_errors(image, 1 - image, only).count_nonzero() == 1
    (slope,) = torch.autograd.grad(errors.sum(), corrupted)
    assert slope.isfinite().all()
    assert (slope[:, 3, 4] == 0).all()


def test_the_best_neighbor_is_the_smallest_error_of_valid_targets() -> None:
    scene = exact_scene()
    images = painted(scene)
    images[1] = 1 - images[1]  # a frame that looks like nothing else
    warps = tuple(warp_static(scene, 0, target) for target in (1, 2))
    masks = tuple(unoccluded(scene, warp, target) for warp, target in zip(warps, (1, 2), strict=True))
    errors = [
        warped_photometric_errors(images[0], images[target], warp, mask)
        for target, warp, mask in zip((1, 2), warps, masks, strict=True)
    ]
    term = best_neighbor_photometric_term(images[0], (images[1], images[2]), warps, masks)
    total = zeros()
    for row in range(HEIGHT):
        for column in range(WIDTH):
            here = [error[row, column] for error, mask in zip(errors, masks, strict=True) if mask[row, column]]
            total = total + (min(here) if here else 0)
    torch.testing.assert_close(term.total, total)
    assert term.count == (masks[0] | masks[1]).sum()
    assert (masks[0] ^ masks[1]).any()
