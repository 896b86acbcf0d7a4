"""Tests of radial distortion against OpenCV's formula and its inverse."""

import pytest
import torch

from recon4d.refine.cameras.radial_distortion import NO_DISTORTION, RadialDistortion

INTRINSICS = torch.tensor([[200.0, 0, 150], [0, 210, 95], [0, 0, 1]]).double()


def distort(pixels: torch.Tensor, lens: RadialDistortion) -> torch.Tensor:
    normalized = (pixels - INTRINSICS[:2, 2]) / INTRINSICS.diagonal()[:2]
    return lens.factors(normalized) * normalized * INTRINSICS.diagonal()[:2] + INTRINSICS[:2, 2]


def test_the_factors_are_those_of_colmap() -> None:
    factors = RadialDistortion(0.1, -0.02).factors(torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.0, 2.0]]))
    torch.testing.assert_close(factors, torch.tensor([[1.0], [1.08], [1 + 0.4 - 0.32]]))


@pytest.mark.parametrize("lens", [RadialDistortion(-0.12), RadialDistortion(0.15), RadialDistortion(-0.2, 0.08)])
def test_undistortion_inverts_distortion(lens: RadialDistortion) -> None:
    grid = torch.cartesian_prod(torch.arange(0, 300, 25), torch.arange(0, 190, 25)).double()
    assert lens.is_invertible((190, 300), INTRINSICS)
    torch.testing.assert_close(lens.undistort(distort(grid, lens), INTRINSICS), grid, atol=1e-3, rtol=0)
    torch.testing.assert_close(distort(lens.undistort(grid, INTRINSICS), lens), grid, atol=1e-3, rtol=0)


def test_slopes_are_derivatives_by_the_squared_distance() -> None:
    lens, step = RadialDistortion(0.1, -0.05), 1e-6
    at = torch.tensor([[0.3, 0.4]]).double()
    further = at * ((0.25 + step) / 0.25) ** 0.5
    numeric = (lens.factors(further) - lens.factors(at)) / step
    torch.testing.assert_close(lens.slopes(at), numeric, atol=1e-5, rtol=0)


def test_a_lens_that_folds_the_image_is_not_invertible() -> None:
    assert not RadialDistortion(-0.5).is_invertible((190, 300), INTRINSICS)
    assert NO_DISTORTION.is_invertible((190, 300), INTRINSICS)
    assert NO_DISTORTION.is_none
