"""Tests of Lucas-Kanade alignment on analytic images warped by affine maps, under different exposures."""

import math

import pytest
import torch

from recon4d.refine.tracks.lucas_kanade import (
    STEPS_AT_ONCE,
    Placement,
    align,
    make_templates,
    ncc,
    sample_bilinear,
)

SIDE = 64
CENTER = torch.tensor([[30.5, 33.5]])
FIRST, SECOND = torch.tensor([0]), torch.tensor([1])


def waves(x: torch.Tensor, y: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Evaluate a smooth analytic image: waves with lengths of 6 to 30 pixels in all directions."""
    generator = torch.Generator().manual_seed(seed)
    lengths, turns, phases = torch.rand(3, 12, generator=generator)
    frequency = 2 * math.pi / (6 + 24 * lengths)
    angle = 2 * math.pi * turns
    along = x[..., None] * angle.cos() + y[..., None] * angle.sin()
    return 0.5 + 0.1 * torch.sin(frequency * along + 2 * math.pi * phases).sum(dim=-1)


def warped(shape: torch.Tensor, to: torch.Tensor, gain: float = 1.0, bias: float = 0.0) -> torch.Tensor:
    """Return two images: the offset o from `CENTER` in the first is at ``to + shape @ o`` in the second."""
    row, column = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    back = (torch.stack([column, row], dim=-1) - to) @ torch.linalg.inv(shape).T + CENTER[0]
    return torch.stack([waves(column, row), gain * waves(*back.unbind(-1)) + bias])


SHAPES = [
    torch.eye(2),
    torch.tensor([[0.94, -0.34], [0.34, 0.94]]),
    torch.tensor([[1.3, 0.0], [0.0, 0.9]]),
    torch.tensor([[1.0, 0.25], [-0.05, 1.1]]),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("gain", "bias"), [(1.0, 0.0), (0.4, 0.3)])
def test_an_affine_change_is_found_whatever_the_exposure(shape: torch.Tensor, gain: float, bias: float) -> None:
    to = torch.tensor([33.2, 31.9])
    images = warped(shape, to, gain, bias)
    templates = make_templates(images, FIRST, CENTER, radius=7, with_shape=True)
    start = Placement.upright(to + torch.tensor([[1.2, -0.9]]))
    found = align(templates, images, SECOND, start, num_steps=20)
    torch.testing.assert_close(found.centers[0], to, atol=0.03, rtol=0)
    torch.testing.assert_close(found.shapes[0], shape, atol=0.02, rtol=0)
    assert ncc(templates, images, SECOND, found).item() > 0.998
    # At the start, the appearance differed.
    assert ncc(templates, images, SECOND, start).item() < 0.95


def test_without_shape_refinement_only_the_translation_is_estimated() -> None:
    to = torch.tensor([29.1, 35.3])
    images = warped(torch.eye(2), to)
    templates = make_templates(images, FIRST, CENTER, radius=5, with_shape=False)
    found = align(templates, images, SECOND, Placement.upright(CENTER), num_steps=15)
    torch.testing.assert_close(found.centers[0], to, atol=0.03, rtol=0)
    assert torch.equal(found.shapes[0], torch.eye(2))


def test_other_and_inverted_images_do_not_correlate() -> None:
    row, column = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    first = waves(column, row)
    images = torch.stack([first, waves(column, row, seed=1), 1 - first, torch.full_like(first, 0.5)])
    templates = make_templates(images, FIRST, CENTER, radius=7, with_shape=True)

    def correlation(frame: int) -> float:
        return ncc(templates, images, torch.tensor([frame]), Placement.upright(CENTER)).item()

    assert correlation(0) == pytest.approx(1, abs=1e-5)
    assert correlation(1) < 0.7
    assert correlation(2) == pytest.approx(-1, abs=1e-5)
    assert correlation(3) == pytest.approx(0, abs=1e-3)


def test_directions_without_gradient_do_not_change() -> None:
    """Stripes have no gradient along themselves, and a blank image has none at all."""
    column = (torch.arange(SIDE) + 0.5).expand(SIDE, SIDE)
    stripes = torch.stack([torch.sin(column / 3), torch.sin((column - 1) / 3)])
    start = Placement.upright(CENTER)
    found = align(make_templates(stripes, FIRST, CENTER, 7, with_shape=False), stripes, SECOND, start, num_steps=10)
    torch.testing.assert_close(found.centers[0], CENTER[0] + torch.tensor([1.0, 0.0]), atol=0.05, rtol=0)

    blank = torch.zeros(2, SIDE, SIDE)
    found = align(make_templates(blank, FIRST, CENTER, 7, with_shape=True), blank, SECOND, start, num_steps=10)
    torch.testing.assert_close(found.centers, CENTER)
    torch.testing.assert_close(found.shapes[0], torch.eye(2))


def test_templates_of_several_frames_are_independent() -> None:
    images = warped(SHAPES[1], torch.tensor([33.2, 31.9]))
    frames = torch.tensor([0, 1, 0])
    centers = torch.tensor([[30.5, 33.5], [20.5, 40.5], [40.5, 22.5]])
    targets = torch.tensor([1, 0, 1])
    start = Placement.upright(centers + 0.7)
    together = align(make_templates(images, frames, centers, 6, True), images, targets, start, 6)
    for one in range(3):
        index = torch.tensor([one])
        templates = make_templates(images, frames[index], centers[index], 6, True)
        alone = align(templates, images, targets[index], Placement.upright(start.centers[index]), 6)
        torch.testing.assert_close(alone.centers[0], together.centers[one])
        torch.testing.assert_close(alone.shapes[0], together.shapes[one])
        of_all = make_templates(images, frames, centers, 6, True).take(index)
        torch.testing.assert_close(of_all.values, templates.values)


def test_bilinear_samples_at_between_and_beyond_pixel_centers() -> None:
    image = torch.arange(12.0).reshape(1, 3, 4) ** 2
    at = torch.tensor([[1.5, 0.5], [2.5, 1.5], [2.0, 1.0], [-3.0, 0.5], [9.0, 9.0], [1.5, -9.0]])
    expected = torch.tensor([1.0, 36.0, (1 + 4 + 25 + 36) / 4, 0.0, 121.0, 1.0])
    origin = Placement.upright(torch.zeros(1, 2))
    torch.testing.assert_close(sample_bilinear(image, FIRST, origin, at)[0], expected, atol=1e-3, rtol=0)
    # The border of a frame is its own, not that of the frame above or below.
    middle = torch.cat([image + 900, image, image - 900])
    torch.testing.assert_close(sample_bilinear(middle, SECOND, origin, at)[0], expected, atol=1e-3, rtol=0)
    # Twice as large, a quarter turn and a shift: the offset (1, 0) lies at (1.5, 0.5 + 2).
    turned = Placement(torch.tensor([[1.5, 0.5]]), torch.tensor([[[0.0, -2.0], [2.0, 0.0]]]))
    read = sample_bilinear(image, FIRST, turned, torch.tensor([[1.0, 0.0], [0.0, -0.5]]))[0]
    torch.testing.assert_close(read, torch.tensor([81.0, 4.0]), atol=1e-3, rtol=0)


def test_converged_templates_stop_and_the_others_go_on() -> None:
    """The first template starts at its place; the second one is not there after the first steps."""
    images = warped(SHAPES[1], torch.tensor([33.2, 31.9]))
    templates = make_templates(images, FIRST.repeat(2), CENTER.repeat(2, 1), 7, with_shape=True)
    there = torch.tensor([33.2, 31.9])
    start = Placement(torch.stack([there, there + 1.3]), torch.stack([SHAPES[1], torch.eye(2)]))
    few, many = (align(templates, images, SECOND.repeat(2), start, steps) for steps in (STEPS_AT_ONCE, 20))
    assert torch.equal(few.centers[0], many.centers[0])
    assert (many.centers[1] - there).norm() < 0.015 < (few.centers[1] - there).norm()


def test_scales_are_the_singular_values_of_the_shapes() -> None:
    shapes = torch.randn(50, 2, 2, generator=torch.Generator().manual_seed(0))
    smaller, larger = Placement(torch.zeros(50, 2), shapes).scales()
    torch.testing.assert_close(torch.stack([larger, smaller], dim=1), torch.linalg.svdvals(shapes))
