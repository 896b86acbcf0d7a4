"""Patches are found to a fraction of a pixel where a picture was warped by a known affine map, whatever its light."""

import math

import pytest
import torch

from recon4d.refine.tracks.lucas_kanade import (
    Placement,
    align,
    make_templates,
    ncc,
    read_bilinear,
)

SIDE = 64
CENTER = torch.tensor([[30.5, 33.5]])
FIRST, SECOND = torch.tensor([0]), torch.tensor([1])


def waves(x: torch.Tensor, y: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A smooth picture that is known everywhere: waves of 6 to 30 pixels in all directions."""
    generator = torch.Generator().manual_seed(seed)
    lengths, turns, phases = torch.rand(3, 12, generator=generator)
    frequency = 2 * math.pi / (6 + 24 * lengths)
    angle = 2 * math.pi * turns
    along = x[..., None] * angle.cos() + y[..., None] * angle.sin()
    return 0.5 + 0.1 * torch.sin(frequency * along + 2 * math.pi * phases).sum(dim=-1)


def warped(shape: torch.Tensor, to: torch.Tensor, gain: float = 1.0, bias: float = 0.0) -> torch.Tensor:
    """Two pictures: an offset o from `CENTER` in the first is seen at ``to + shape @ o`` in the second."""
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
    pictures = warped(shape, to, gain, bias)
    templates = make_templates(pictures, FIRST, CENTER, radius=7)
    start = Placement.upright(to + torch.tensor([[1.2, -0.9]]))
    found = align(templates, pictures, SECOND, start, steps=20, bends=True)
    torch.testing.assert_close(found.centers[0], to, atol=0.03, rtol=0)
    torch.testing.assert_close(found.shapes[0], shape, atol=0.02, rtol=0)
    assert ncc(templates, pictures, SECOND, found).item() > 0.998
    # At the start it looked like something else.
    assert ncc(templates, pictures, SECOND, start).item() < 0.95


def test_without_bending_only_the_place_is_looked_for() -> None:
    to = torch.tensor([29.1, 35.3])
    pictures = warped(torch.eye(2), to)
    templates = make_templates(pictures, FIRST, CENTER, radius=5)
    found = align(templates, pictures, SECOND, Placement.upright(CENTER), steps=15, bends=False)
    torch.testing.assert_close(found.centers[0], to, atol=0.03, rtol=0)
    assert torch.equal(found.shapes[0], torch.eye(2))


def test_other_pictures_and_inverted_ones_are_not_alike() -> None:
    row, column = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    first = waves(column, row)
    pictures = torch.stack([first, waves(column, row, seed=1), 1 - first, torch.full_like(first, 0.5)])
    templates = make_templates(pictures, FIRST, CENTER, radius=7)

    def alike(frame: int) -> float:
        return ncc(templates, pictures, torch.tensor([frame]), Placement.upright(CENTER)).item()

    assert alike(0) == pytest.approx(1, abs=1e-5)
    assert alike(1) < 0.7
    assert alike(2) == pytest.approx(-1, abs=1e-5)
    assert alike(3) == pytest.approx(0, abs=1e-3)


def test_what_a_flat_patch_does_not_tell_stays_as_it_is() -> None:
    """Stripes tell nothing along themselves, and a blank picture nothing at all."""
    column = (torch.arange(SIDE) + 0.5).expand(SIDE, SIDE)
    stripes = torch.stack([torch.sin(column / 3), torch.sin((column - 1) / 3)])
    start = Placement.upright(CENTER)
    found = align(make_templates(stripes, FIRST, CENTER, 7), stripes, SECOND, start, steps=10, bends=False)
    torch.testing.assert_close(found.centers[0], CENTER[0] + torch.tensor([1.0, 0.0]), atol=0.05, rtol=0)

    blank = torch.zeros(2, SIDE, SIDE)
    found = align(make_templates(blank, FIRST, CENTER, 7), blank, SECOND, start, steps=10, bends=True)
    torch.testing.assert_close(found.centers, CENTER)
    torch.testing.assert_close(found.shapes[0], torch.eye(2))


def test_many_patches_of_many_frames_are_independent() -> None:
    pictures = warped(SHAPES[1], torch.tensor([33.2, 31.9]))
    frames = torch.tensor([0, 1, 0])
    centers = torch.tensor([[30.5, 33.5], [20.5, 40.5], [40.5, 22.5]])
    targets = torch.tensor([1, 0, 1])
    start = Placement.upright(centers + 0.7)
    together = align(make_templates(pictures, frames, centers, 6), pictures, targets, start, 6, bends=True)
    for one in range(3):
        chosen = torch.tensor([one])
        templates = make_templates(pictures, frames[chosen], centers[chosen], 6)
        alone = align(templates, pictures, targets[chosen], Placement.upright(start.centers[chosen]), 6, True)
        torch.testing.assert_close(alone.centers[0], together.centers[one])
        torch.testing.assert_close(alone.shapes[0], together.shapes[one])
        of_all = make_templates(pictures, frames, centers, 6).take(chosen)
        torch.testing.assert_close(of_all.values, templates.values)


def test_values_are_read_at_pixel_centers_between_them_and_beyond_the_border() -> None:
    picture = torch.arange(12.0).reshape(1, 3, 4) ** 2
    at = torch.tensor([[[1.5, 0.5], [2.5, 1.5], [2.0, 1.0], [-3.0, 0.5], [9.0, 9.0]]])
    read = read_bilinear(picture, torch.tensor([0]), at)[0]
    expected = [1.0, 36.0, (1 + 4 + 25 + 36) / 4, 0.0, 121.0]
    torch.testing.assert_close(read, torch.tensor(expected), atol=0.1, rtol=0)
