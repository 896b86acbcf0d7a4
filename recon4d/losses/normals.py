"""Losses of the surface normals of point maps.

Each corner of a square of four pixels has a normal, the cross product of the edges to its two neighbors. This equals
the four normals per pixel from its neighbors (up, left), (left, down), (down, right) and (right, up), without the
border.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.term import Term, masked_term

NORMAL_SCALES = 3
"""Number of scales at which normals are compared; the stride doubles with each. From VGGT."""

MIN_ANGLE = math.radians(1)
"""Angles are clamped to at least this, in radians: smaller ones are noise of the ground truth. From MoGe."""
MAX_ANGLE = math.radians(90)
"""Angles are clamped to at most this, in radians: a flipped surface has no useful gradient. From MoGe."""

SMOOTH_ANGLE = math.radians(3)
"""Beta: angles below this are penalized quadratically, in radians. From MoGe."""

MIN_SINE = 1e-4
"""Smallest sine of the angle between two edges that define a normal."""

MIN_EDGE = 1e-12
"""Edges up to this length have no direction, in the unit of the points."""


def normal_cosine_terms(
    predicted: Float[Tensor, "*batch height width 3"],
    true: Float[Tensor, "*batch height width 3"],
    valid: Bool[Tensor, "*batch height width"],
) -> tuple[Term, ...]:
    """Compute 1 - cos of the angle between predicted and true normals at strides of 1, 2 and 4 pixels (VGGT).

    Args:
        predicted: Predicted points in any frame and unit.
        true: True points in the same frame.
        valid: Mask of the pixels to use; the three pixels of a normal must be valid.

    Returns:
        One term per scale over the true normals that exist. A predicted normal that does not exist, because its points
        are collinear, costs 1 and has no gradient.
    """
    terms = []
    for step in (2**scale for scale in range(NORMAL_SCALES)):
        coarse = slice(None, None, step)
        coarse_valid = valid[..., coarse, coarse]
        normals, true_normals, is_used = _normal_pairs(
            predicted[..., coarse, coarse, :], true[..., coarse, coarse, :], coarse_valid
        )
        cosine = (normals * true_normals).sum(dim=-1)
        terms.append(masked_term(1 - cosine, is_used))
    return tuple(terms)


def normal_angle_term(
    predicted: Float[Tensor, "*batch height width 3"],
    true: Float[Tensor, "*batch height width 3"],
    valid: Bool[Tensor, "*batch height width"],
) -> Term:
    """Compute the angle between normals, clamped to [1, 90] degrees and quadratic below 3 degrees (MoGe, 2024).

    MoGe also divides by the longer image side; here the weight of the term covers that.

    Args:
        predicted: Predicted points in any frame and unit.
        true: True points in the same frame.
        valid: Mask of the pixels to use; the three pixels of a normal must be valid.

    Returns:
        The term in radians, over the same normals as the first scale of `normal_cosine_terms`.
    """
    normals, true_normals, is_used = _normal_pairs(predicted, true, valid)
    sine = torch.linalg.vector_norm(torch.linalg.cross(normals, true_normals), dim=-1)
    cosine = (normals * true_normals).sum(dim=-1)
    exists = normals.abs().sum(dim=-1) > 0
    angle = torch.atan2(sine, torch.where(exists, cosine, torch.ones_like(cosine)))
    angle = torch.where(exists, angle, torch.full_like(angle, MAX_ANGLE)).clamp(MIN_ANGLE, MAX_ANGLE)
    quadratic, linear = 0.5 * angle.square() / SMOOTH_ANGLE, angle - 0.5 * SMOOTH_ANGLE
    return masked_term(torch.where(angle < SMOOTH_ANGLE, quadratic, linear), is_used)


def corner_normals(
    points: Float[Tensor, "*batch height width 3"], valid: Bool[Tensor, "*batch height width"]
) -> tuple[Float[Tensor, "*batch 4 rows columns 3"], Bool[Tensor, "*batch 4 rows columns"]]:
    """Compute the unit normals at the four corners of every square of pixels.

    Args:
        points: Point map. Normals of points in the camera frame face the camera.
        valid: Mask of the pixels to use.

    Returns:
        Normals in the order lower right, upper right, upper left, lower left, with rows = height - 1 and columns =
        width - 1, and whether each exists. Normals that do not exist are 0.
    """
    safe = torch.where(valid[..., None], points, torch.zeros_like(points))
    corner_points = torch.stack(_corners(safe, -3), dim=-4)
    corner_valid = torch.stack(_corners(valid, -2), dim=-3)
    first = _directions(corner_points.roll(-1, dims=-4) - corner_points)
    second = _directions(corner_points.roll(1, dims=-4) - corner_points)
    across = torch.linalg.cross(first, second)
    exists = corner_valid & corner_valid.roll(1, dims=-3) & corner_valid.roll(-1, dims=-3)
    exists = exists & (across.detach().square().sum(dim=-1) > MIN_SINE**2)
    length = torch.linalg.vector_norm(torch.where(exists[..., None], across, torch.ones_like(across)), dim=-1)
    return torch.where(exists[..., None], across / length[..., None], torch.zeros_like(across)), exists


def _normal_pairs(predicted: Tensor, true: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute predicted normals, true normals, and the mask of true normals that exist."""
    normals, _ = corner_normals(predicted, valid)
    true_normals, is_used = corner_normals(true, valid)
    return normals, true_normals, is_used


def _corners(maps: Tensor, row_axis: int) -> list[Tensor]:
    """Return the lower right, upper right, upper left and lower left pixel of every square, a closed loop around it."""
    rows, columns = maps.shape[row_axis] - 1, maps.shape[row_axis + 1] - 1
    starts = ((1, 1), (0, 1), (0, 0), (1, 0))
    return [maps.narrow(row_axis, top, rows).narrow(row_axis + 1, left, columns) for top, left in starts]


def _directions(edges: Tensor) -> Tensor:
    """Normalize edges; edges without length give 0 without gradient."""
    has_length = edges.detach().square().sum(dim=-1, keepdim=True) > MIN_EDGE**2
    length = torch.linalg.vector_norm(torch.where(has_length, edges, torch.ones_like(edges)), dim=-1, keepdim=True)
    return torch.where(has_length, edges / length, torch.zeros_like(edges))
