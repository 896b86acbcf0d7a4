"""Surface normals of point maps compared: at every pixel the four that its pairs of neighbors span.

In each square of four pixels every corner spans a normal with its two neighbors. Squares and corners are the same
as pixels and the four pairs of neighbors (up, left), (left, down), (down, right), (right, up), without borders.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.losses.term import Term, masked_term

NORMAL_SCALES = 3

MIN_ANGLE = math.radians(1)
MAX_ANGLE = math.radians(90)
"""Angles are clamped to this range: below is noise of the truth, above a flipped surface has no slope to follow."""

SMOOTH_ANGLE = math.radians(3)
"""Beta: below, an angle counts quadratically."""

MIN_SINE = 1e-4
"""Edges closer to one line than this span no normal."""

MIN_EDGE = 1e-12
"""Edges shorter than this have no direction, whatever the unit."""


def normal_cosine_terms(
    predicted: Float[Tensor, "*batch height width 3"],
    true: Float[Tensor, "*batch height width 3"],
    valid: Bool[Tensor, "*batch height width"],
) -> tuple[Term, ...]:
    """1 - cos of the angle between predicted and true normals at 3 scales, every 1st, 2nd and 4th pixel (VGGT).

    Points are in any one frame and unit. A normal counts where its three pixels are valid and the true one exists; a
    predicted one that does not exist (points on a line) costs 1 and has no gradient.
    """
    terms = []
    for step in (2**scale for scale in range(NORMAL_SCALES)):
        coarse = slice(None, None, step)
        few = valid[..., coarse, coarse]
        answer, truth, counts = _normal_pairs(predicted[..., coarse, coarse, :], true[..., coarse, coarse, :], few)
        cosine = (answer * truth).sum(dim=-1)
        terms.append(masked_term(1 - cosine, counts))
    return tuple(terms)


def normal_angle_term(
    predicted: Float[Tensor, "*batch height width 3"],
    true: Float[Tensor, "*batch height width 3"],
    valid: Bool[Tensor, "*batch height width"],
) -> Term:
    """Angles in radians between normals, clamped to [1, 90] degrees, quadratic below 3 degrees (MoGe, 2024).

    Counts the normals that `normal_cosine_terms` counts at its first scale. MoGe divides by the longer side of the
    picture besides, which is left to the weight of the term.
    """
    answer, truth, counts = _normal_pairs(predicted, true, valid)
    sine = torch.linalg.vector_norm(torch.linalg.cross(answer, truth), dim=-1)
    cosine = (answer * truth).sum(dim=-1)
    exists = answer.abs().sum(dim=-1) > 0
    angle = torch.atan2(sine, torch.where(exists, cosine, torch.ones_like(cosine)))
    angle = torch.where(exists, angle, torch.full_like(angle, MAX_ANGLE)).clamp(MIN_ANGLE, MAX_ANGLE)
    quadratic, linear = 0.5 * angle.square() / SMOOTH_ANGLE, angle - 0.5 * SMOOTH_ANGLE
    return masked_term(torch.where(angle < SMOOTH_ANGLE, quadratic, linear), counts)


def corner_normals(
    points: Float[Tensor, "*batch height width 3"], valid: Bool[Tensor, "*batch height width"]
) -> tuple[Float[Tensor, "*batch 4 rows columns 3"], Bool[Tensor, "*batch 4 rows columns"]]:
    """Unit normals at the four corners of every square of pixels, and where they exist; zero elsewhere.

    Corners are in the order lower right, upper right, upper left, lower left (rows = height - 1, columns =
    width - 1). With points as a camera sees them, normals look toward the camera.
    """
    safe = torch.where(valid[..., None], points, torch.zeros_like(points))
    round_points = torch.stack(_corners(safe, -3), dim=-4)
    round_valid = torch.stack(_corners(valid, -2), dim=-3)
    first = _directions(round_points.roll(-1, dims=-4) - round_points)
    second = _directions(round_points.roll(1, dims=-4) - round_points)
    across = torch.linalg.cross(first, second)
    exists = round_valid & round_valid.roll(1, dims=-3) & round_valid.roll(-1, dims=-3)
    exists = exists & (across.detach().square().sum(dim=-1) > MIN_SINE**2)
    length = torch.linalg.vector_norm(torch.where(exists[..., None], across, torch.ones_like(across)), dim=-1)
    return torch.where(exists[..., None], across / length[..., None], torch.zeros_like(across)), exists


def _normal_pairs(predicted: Tensor, true: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted normals, true normals, and where the true ones exist, which is where the loss counts."""
    answer, _ = corner_normals(predicted, valid)
    truth, counts = corner_normals(true, valid)
    return answer, truth, counts


def _corners(maps: Tensor, row_axis: int) -> list[Tensor]:
    """Every square's lower right, upper right, upper left and lower left pixel, which is once around it."""
    rows, columns = maps.shape[row_axis] - 1, maps.shape[row_axis + 1] - 1
    starts = ((1, 1), (0, 1), (0, 0), (1, 0))
    return [maps.narrow(row_axis, top, rows).narrow(row_axis + 1, left, columns) for top, left in starts]


def _directions(edges: Tensor) -> Tensor:
    """Unit vectors; zero for an edge without length, and no gradient there."""
    has_length = edges.detach().square().sum(dim=-1, keepdim=True) > MIN_EDGE**2
    length = torch.linalg.vector_norm(torch.where(has_length, edges, torch.ones_like(edges)), dim=-1, keepdim=True)
    return torch.where(has_length, edges / length, torch.zeros_like(edges))
