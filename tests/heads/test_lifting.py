"""Lifted matches: the motion that static cells share is found and removed, and what moves keeps its displacement."""

import torch
from torch import Tensor

from recon4d.geometry import invert, pixel_grid, rigid, rotation_from_axis_angle, transform_points
from recon4d.heads.lifting import CellPairs, lifted_displacement, static_alignment

CELLS, MOVERS = 300, 90


def disturbed_camera() -> Tensor:
    """Return the error of a camera: about two degrees, and two percent of the depth."""
    return rigid(rotation_from_axis_angle(torch.tensor([0.02, -0.03, 0.01])), torch.tensor([0.05, -0.02, 0.03]))[None]


def scene(weight_of_movers: float = 1.0, error: Tensor | None = None) -> tuple[CellPairs, Tensor]:
    """Return matched cells of which the first move, and their true displacements."""
    generator = torch.Generator().manual_seed(0)
    depths = 1 + 3 * torch.rand(1, CELLS, generator=generator)
    points = torch.randn(1, CELLS, 3, generator=generator) * depths[..., None] / 2
    displacement = torch.zeros_like(points)
    displacement[:, :MOVERS] = torch.tensor([0.3, 0.1, -0.2])
    found = points + displacement
    if error is not None:
        found = transform_points(error, found)
    weights = torch.ones(1, CELLS)
    weights[:, :MOVERS] = weight_of_movers
    return CellPairs(points, found, depths, weights), displacement


def remaining(pairs: CellPairs) -> Tensor:
    return transform_points(static_alignment(pairs), pairs.target) - pairs.anchor


def test_with_right_cameras_nothing_is_aligned() -> None:
    pairs, displacement = scene()
    torch.testing.assert_close(remaining(pairs), displacement, atol=0.01, rtol=0)


def test_the_error_of_a_camera_is_removed_and_motion_stays() -> None:
    error = disturbed_camera()
    pairs, displacement = scene(error=error)
    assert (pairs.target - pairs.anchor - displacement).norm(dim=-1).mean() > 0.05
    torch.testing.assert_close(remaining(pairs), displacement, atol=0.02, rtol=0)
    torch.testing.assert_close(static_alignment(pairs), invert(error), atol=0.02, rtol=0)


def test_cells_that_are_known_to_move_do_not_count() -> None:
    pairs, displacement = scene(weight_of_movers=0.0, error=disturbed_camera())
    torch.testing.assert_close(remaining(pairs), displacement, atol=2e-3, rtol=0)


def test_without_matches_the_cameras_are_trusted() -> None:
    pairs, _ = scene(error=disturbed_camera())
    unmatched = CellPairs(pairs.anchor, 5 * torch.randn(1, CELLS, 3), pairs.depths, torch.zeros(1, CELLS))
    torch.testing.assert_close(static_alignment(unmatched), torch.eye(4)[None], atol=1e-5, rtol=0)


def test_displacement_of_every_pixel() -> None:
    height, width = 28, 42
    ramp = torch.cat([0.1 * pixel_grid(height, width), torch.ones(height, width, 1)], dim=-1).movedim(-1, 0)[None]
    target = ramp + torch.tensor([0.0, 0.0, 0.5])[None, :, None, None]
    flow = torch.tensor([3.0, -2.0])[None, :, None, None].expand(1, 2, 4, 6)
    lifted = lifted_displacement(ramp, target, flow, torch.eye(4)[None], limit=1.0)
    expected = torch.tensor([0.3, -0.2, 0.5])[None, :, None, None].expand_as(lifted)
    inside = (slice(None), slice(None), slice(3, -3), slice(4, -4))
    torch.testing.assert_close(lifted[inside], expected[inside])
    turned = rigid(rotation_from_axis_angle(torch.tensor([0.0, 0.0, torch.pi / 2])), torch.zeros(3))[None]
    there = transform_points(turned, (ramp + expected).movedim(1, -1)).movedim(-1, 1) - ramp
    lifted = lifted_displacement(ramp, target, flow, turned, limit=100.0)
    torch.testing.assert_close(lifted[inside], there[inside])
    assert lifted_displacement(ramp, 100 * target, flow, turned, limit=0.25).abs().max() == 0.25
