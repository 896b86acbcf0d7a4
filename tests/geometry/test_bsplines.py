"""Uniform cubic B-splines: scipy's are the same, refinement changes nothing, control is local."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from recon4d.geometry.bsplines import bspline_weights, refine_bspline

PARAMETERS = torch.tensor([0.0, 0.3, 1.0, 1.7, 2.5, 3.0], dtype=torch.float64)


def control_points(segments: int) -> torch.Tensor:
    return torch.randn(segments + 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_curves_and_derivatives_are_those_of_scipy(derivative: int) -> None:
    points = control_points(3)
    curve = BSpline(np.arange(-3.0, 7.0), points.numpy(), 3)
    wanted = curve(PARAMETERS.numpy(), nu=derivative)
    found = bspline_weights(PARAMETERS, 3, derivative) @ points
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_the_third_derivative_is_constant_within_a_segment() -> None:
    points = control_points(3)
    third = bspline_weights(torch.tensor([1.1, 1.9], dtype=torch.float64), 3, 3) @ points
    torch.testing.assert_close(third[0], third[1])


def test_a_control_point_has_influence_on_four_segments_only() -> None:
    weights = bspline_weights(torch.arange(0.5, 8.0), 8)
    assert [(column > 0).nonzero()[:, 0].tolist() for column in weights.T][5] == [2, 3, 4, 5]
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(8))


@pytest.mark.parametrize("segments", [1, 3])
def test_refinement_does_not_change_the_curve(segments: int) -> None:
    points = control_points(segments)
    parameters = torch.linspace(0, segments, 17, dtype=torch.float64)
    refined = refine_bspline(points)
    assert len(refined) == 2 * segments + 3
    before = bspline_weights(parameters, segments) @ points
    torch.testing.assert_close(bspline_weights(2 * parameters, 2 * segments) @ refined, before)
