"""Inputs of losses, and the check that invalid elements have no effect."""

import torch

from recon4d.geometry import pixel_grid, unproject_map
from recon4d.losses.term import Term, mean

HEIGHT, WIDTH = 10, 14


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everywhere(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def hilly_points(height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """Return points of a smooth surface at a depth of about 3, in the camera frame."""
    grid = pixel_grid(height, width, dtype=torch.float64) / width
    depths = 3 + 0.5 * torch.sin(5 * grid[..., 0]) + 0.4 * torch.cos(7 * grid[..., 1] + 2 * grid[..., 0])
    k = torch.tensor([[1.1 * width, 0, width / 2], [0, 1.1 * width, height / 2], [0, 0, 1]], dtype=torch.float64)
    return unproject_map(depths, k)


def corrupt_invalid(
    predicted: torch.Tensor, true: torch.Tensor, valid: torch.Tensor, wrong: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prediction and truth with `wrong` at invalid elements."""
    where = valid[..., None]
    return torch.where(where, predicted, wrong), torch.where(where, true, wrong)


def assert_no_effect(terms: tuple[Term, ...], *inputs: torch.Tensor) -> None:
    """Check that means and gradients are 0 if nothing is valid."""
    value = torch.stack([mean(term) for term in terms]).sum()
    assert value == 0
    for gradient in torch.autograd.grad(value, inputs):
        assert (gradient == 0).all()
