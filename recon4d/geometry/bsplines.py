"""Uniform cubic B-splines with local control: basis, evaluation, derivatives and exact refinement.

A spline of n segments has n + 3 control points. On segment i only the control points i to i + 3 have influence
(de Boor, A Practical Guide to Splines, 1978, chapter IX). The parameter runs from 0 at the first to n at the last knot.
"""

import torch
from jaxtyping import Float
from torch import Tensor

DEGREE = 3
"""Degree of the polynomials."""

# Rows: powers 0 to 3 of the position within a segment; columns: the four control points of the segment.
_BASIS = torch.tensor([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]], dtype=torch.float64) / 6


def bspline_weights(
    parameter: Float[Tensor, "*shape"], segments: int, derivative: int = 0
) -> Float[Tensor, "*shape control"]:
    """Compute the weight of every control point at some parameters.

    Args:
        parameter: Parameters in [0, segments]; those beyond continue the polynomial of the first or last segment.
        segments: Number of segments, at least 1.
        derivative: Order of the derivative by the parameter, from 0 to 3.

    Returns:
        Weights of the ``segments + 3`` control points. Those of derivative 0 sum to 1, those of others to 0.
    """
    segment = parameter.floor().clamp(0, segments - 1)
    position = parameter - segment
    powers = []
    for power in range(DEGREE + 1):
        factor = 1.0
        for order in range(derivative):
            factor *= power - order
        exponent = power - derivative
        powers.append(factor * position**exponent if exponent >= 0 else torch.zeros_like(position))
    local = torch.stack(powers, dim=-1) @ _BASIS.to(parameter)
    columns = segment.long()[..., None] + torch.arange(DEGREE + 1, device=parameter.device)
    weights = parameter.new_zeros(*parameter.shape, segments + DEGREE)
    return weights.scatter(-1, columns, local)


def evaluate_bspline(
    control_points: Float[Tensor, "*batch control 3"],
    interval: Float[Tensor, "*interval 2"],
    times: Float[Tensor, " moment"],
    derivative: int = 0,
) -> Float[Tensor, "*batch moment 3"]:
    """Evaluate curves over an interval of time.

    Args:
        control_points: Control points whose knots divide the interval evenly.
        interval: First and last time, the same for all curves.
        times: Times in the unit of the interval; those beyond continue the polynomial of the first or last segment.
        derivative: Order of the derivative by time, from 0 to 3.

    Returns:
        Positions, or their derivative.
    """
    start, end = interval.unbind(dim=-1)
    segments = control_points.shape[-2] - DEGREE
    rate = segments / (end - start)
    weights = bspline_weights((times - start).to(control_points) * rate, segments, derivative)
    return weights @ control_points * rate**derivative


def refine_bspline(control_points: Float[Tensor, "*batch control 3"]) -> Float[Tensor, "*batch refined 3"]:
    """Split every segment in two, which does not change the curve.

    Args:
        control_points: Control points of n segments.

    Returns:
        Control points of 2 n segments of the same curve (Lane and Riesenfeld 1980).
    """
    before, here, after = control_points[..., :-2, :], control_points[..., 1:-1, :], control_points[..., 2:, :]
    at_knots = (before + 6 * here + after) / 8
    between = (control_points[..., :-1, :] + control_points[..., 1:, :]) / 2
    # between[0], at_knots[0], between[1], ..., at_knots[-1], between[-1]
    interleaved = torch.stack([between[..., :-1, :], at_knots], dim=-2).flatten(-3, -2)
    return torch.cat([interleaved, between[..., -1:, :]], dim=-2)
