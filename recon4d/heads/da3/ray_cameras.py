"""Cameras from predicted rays: a robust homography from image positions to ray directions, then its factors.

A pinhole camera maps an image position p (homogeneous, in half image sides from the center) to the direction R K^-1 p,
so the homography from positions to directions is the product of a rotation and an upper triangular matrix.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import intrinsics_from_field_of_view, rigid
from recon4d.heads.camera_base import FIELD_OF_VIEW_RANGE, PRIOR_FIELD_OF_VIEW
from recon4d.heads.da3.dual_dpt import Rays
from recon4d.records import Cameras, full_precision

DRAWS = 100
"""Number of random samples (as published)."""
DRAW_SIZE = 8
"""Number of cells of a sample (as published)."""
CONFIDENT_FRACTION = 0.3
"""Fraction of the most confident cells that samples are drawn from (as published)."""
MAX_ERROR = 0.2
"""Largest error of an inlier in the plane z = 1 of the world (as published)."""
MIN_Z = 1e-4
"""Cells whose direction has a smaller absolute z are not used (as published)."""


@torch.no_grad()
def cameras_from_rays(rays: Rays, size: tuple[int, int], parity: bool = False) -> Cameras:
    """Estimate the camera of each frame from its rays. The result is deterministic.

    A homography from positions to directions is fitted to the confidence-weighted inliers of the best of `DRAWS`
    random samples. It is factored into rotation and inverse intrinsics; the center is the mean origin.

    Args:
        rays: Rays of all frames.
        size: Height and width of the images in pixels.
        parity: Whether the triangular factor is a lower one, as in the published code. It agrees with the correct one
            if the principal point is at the image center; otherwise rotation and principal point are wrong.

    Returns:
        The cameras, with intrinsics for images of this size.
    """
    batch = rays.confidence.shape[:-2]
    with torch.autocast(rays.confidence.device.type, enabled=False):
        directions, origins = (full_precision(values).flatten(0, -4) for values in (rays.directions, rays.origins))
        weights = full_precision(rays.confidence).flatten(0, -3)
        weights = torch.where(directions[..., 2].abs() > MIN_Z, weights, 0.0)
        homographies = _fit_homographies(directions, weights)
        rotation, calibration = _factors(homographies, parity)
        centers = _weighted_mean(origins, weights)
        world_from_cam = rigid(rotation.to(centers.dtype), centers)
        intrinsics = _intrinsics(calibration.to(centers.dtype), size)
    return Cameras(world_from_cam.unflatten(0, batch), intrinsics.unflatten(0, batch))


def _weighted_mean(origins: Tensor, weights: Tensor) -> Float[Tensor, "n 3"]:
    total = weights.sum(dim=(-1, -2)).clamp(min=torch.finfo(weights.dtype).tiny)
    return (origins * weights[..., None]).sum(dim=(-2, -3)) / total[:, None]


def _fit_homographies(
    directions: Float[Tensor, "n rows columns 3"], weights: Float[Tensor, "n rows columns"]
) -> Float[Tensor, "n 3 3"]:
    """Fit the homography of each frame from positions to directions, with a positive determinant, in float64."""
    rows, columns = weights.shape[-2:]
    positions = _cell_positions(rows, columns, directions)
    draws = _draws(round(CONFIDENT_FRACTION * rows * columns), weights.device)
    found = [
        _fit_homography(positions, direction.flatten(0, 1), weight.flatten(), draws)
        for direction, weight in zip(directions, weights, strict=True)
    ]
    homographies = torch.stack(found)
    # Directions and their homography are determined up to sign.
    return homographies * torch.where(torch.linalg.det(homographies) < 0, -1.0, 1.0)[:, None, None]


def _cell_positions(rows: int, columns: int, like: Tensor) -> Float[Tensor, "cells 3"]:
    """Return the homogeneous centers (x, y, 1) of all cells, from -1 to 1 along both axes."""
    y, x = ((2 * torch.arange(n, device=like.device, dtype=like.dtype) + 1) / n - 1 for n in (rows, columns))
    grid = torch.cartesian_prod(y, x).reshape(-1, 2).flip(-1)
    return torch.cat([grid, torch.ones_like(grid[:, :1])], dim=-1)


def _draws(num_ranks: int, device: torch.device) -> Tensor:
    """Return random samples (draw, member) of the ranks of cells by confidence; all frames use the same."""
    generator = torch.Generator().manual_seed(0)
    count = max(num_ranks, DRAW_SIZE)
    return torch.rand(DRAWS, count, generator=generator).topk(DRAW_SIZE, dim=-1).indices.to(device)


def _fit_homography(positions: Tensor, directions: Tensor, weights: Tensor, draws: Tensor) -> Float[Tensor, "3 3"]:
    targets = directions[:, :2] / torch.where(weights > 0, directions[:, 2], 1.0)[:, None]
    ranked = weights.argsort(descending=True, stable=True)
    members = ranked[draws.clamp(max=len(ranked) - 1)]
    hypotheses = _solve(positions[members], targets[members], weights[members])
    scores = (_inliers(hypotheses, positions, targets) * weights).sum(dim=-1)
    best = hypotheses.index_select(0, scores.argmax()[None])
    inlier_weights = weights * _inliers(best, positions, targets)[0]
    return _solve(positions, targets, inlier_weights)


def _inliers(homographies: Tensor, positions: Tensor, targets: Tensor) -> Bool[Tensor, "draw cells"]:
    mapped = positions @ homographies.to(positions.dtype).transpose(-1, -2)
    return (mapped[..., :2] / mapped[..., 2:] - targets).norm(dim=-1) < MAX_ERROR


def _solve(
    positions: Float[Tensor, "*draw cells 3"], targets: Float[Tensor, "*draw cells 2"], weights: Tensor
) -> Float[Tensor, "*draw 3 3"]:
    """Solve for homographies by weighted least squares (DLT), through the 9 x 9 normal matrix in float64."""
    positions, targets, weights = positions.double(), targets.double(), weights.double()
    zero = torch.zeros_like(positions)
    first = torch.cat([positions, zero, -targets[..., :1] * positions], dim=-1)
    second = torch.cat([zero, positions, -targets[..., 1:] * positions], dim=-1)
    normal = sum((part * weights[..., None]).transpose(-1, -2) @ part for part in (first, second))
    assert isinstance(normal, Tensor)
    vectors = torch.linalg.eigh(normal).eigenvectors[..., 0].unflatten(-1, (3, 3))
    return vectors / vectors[..., 2:, 2:]


def _factors(homographies: Tensor, parity: bool) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3 3"]]:
    """Factor homographies into world-from-camera rotations and calibrations in half image sides.

    A calibration [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] maps points of the camera to positions.
    """
    usable = homographies.isfinite().flatten(1).all(dim=1)[:, None, None]
    homographies = torch.where(usable, homographies, torch.eye(3).to(homographies))
    if parity:
        rotation, triangle = _rotation_times_lower(homographies)
        focal, principal_point = 1 / triangle.diagonal(dim1=-2, dim2=-1)[:, :2], triangle[:, 2, :2]
    else:
        rotation, triangle = _rotation_times_upper(homographies)
        inverse = torch.linalg.inv(triangle)
        focal, principal_point = inverse.diagonal(dim1=-2, dim2=-1)[:, :2], inverse[:, :2, 2]
    calibration = torch.diag_embed(torch.cat([focal, torch.ones_like(focal[:, :1])], dim=-1))
    calibration[:, :2, 2] = principal_point
    return rotation, calibration


def _rotation_times_upper(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Factor matrices into a rotation and an upper triangle with positive diagonal that ends in 1."""
    rotation, triangle = torch.linalg.qr(matrices)
    signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(matrices)
    triangle = signs[:, :, None] * triangle
    return rotation * signs[:, None, :], triangle / triangle[:, 2:, 2:]


def _rotation_times_lower(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Factor matrices into a rotation and a lower triangle with positive diagonal that ends in 1."""
    rotation, triangle = torch.linalg.qr(matrices.flip(-1))
    rotation, triangle = rotation.flip(-1), triangle.flip(-1, -2)
    signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(matrices)
    triangle = signs[:, :, None] * triangle
    return rotation * signs[:, None, :], triangle / triangle[:, 2:, 2:]


def _intrinsics(calibration: Float[Tensor, "n 3 3"], size: tuple[int, int]) -> Float[Tensor, "n 3 3"]:
    """Convert calibrations in half image sides to intrinsics in pixels, with the field of view in its range."""
    height, width = size
    focal = calibration.diagonal(dim1=-2, dim2=-1)[:, :2]
    angles = (2 * torch.atan(1 / focal)).nan_to_num(PRIOR_FIELD_OF_VIEW).clamp(*FIELD_OF_VIEW_RANGE)
    half_sides = calibration.new_tensor([width / 2, height / 2])
    return intrinsics_from_field_of_view(angles, (calibration[:, :2, 2] + 1) * half_sides, height, width)
