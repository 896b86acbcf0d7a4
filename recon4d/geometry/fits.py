"""Weighted least-squares fits of rigid and similarity transforms to corresponding points (Umeyama 1991).

The result is never a reflection. Degenerate input has a defined result: for points on a line or in a plane, one of the
optimal rotations is returned; if all source points coincide or all weights are zero, the rotation is the identity, the
scale is 1, and the translation maps the weighted mean of a to that of b (zero without weight).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry.transforms import similarity


def fit_similarity(
    points_a: Float[Tensor, "*batch n 3"],
    points_b: Float[Tensor, "*batch n 3"],
    weights: Float[Tensor, "*batch n"] | None = None,
) -> Float[Tensor, "*batch 4 4"]:
    """Fit similarities: minimize sum_i w_i ||b_i - (s R a_i + t)||^2 (Umeyama 1991, eqs. 40-42).

    Args:
        points_a: Source points, in coordinates of a.
        points_b: Corresponding target points, in coordinates of b.
        weights: Non-negative weights of the correspondences; None weights all equally.

    Returns:
        ``b_from_a``.
    """
    return _fit(points_a, points_b, weights, with_scale=True)


def fit_rigid(
    points_a: Float[Tensor, "*batch n 3"],
    points_b: Float[Tensor, "*batch n 3"],
    weights: Float[Tensor, "*batch n"] | None = None,
) -> Float[Tensor, "*batch 4 4"]:
    """Fit rigid transforms: minimize sum_i w_i ||b_i - (R a_i + t)||^2 (Kabsch 1976).

    Args:
        points_a: Source points, in coordinates of a.
        points_b: Corresponding target points, in coordinates of b.
        weights: Non-negative weights of the correspondences; None weights all equally.

    Returns:
        ``b_from_a``.
    """
    return _fit(points_a, points_b, weights, with_scale=False)


def robust_path_scale(centers: Float[Tensor, "time 3"], reference: Float[Tensor, "time 3"]) -> float:
    """Estimate the scale from a path to a reference path, robustly and independent of rotation and translation.

    The scale compares pairwise distances. Its inverse is the slope of the line through the origin with the least sum of
    absolute errors: the median of the distance ratios, weighted by the reference distances. A quarter of misplaced
    points does not bias it.

    Args:
        centers: Points of the path.
        reference: Corresponding points of the reference path, in any frame.

    Returns:
        The factor from lengths of the path to those of the reference. NaN if all reference points coincide or there is
        only one; infinity if the points of the path coincide.
    """
    first, second = torch.triu_indices(len(reference), len(reference), 1)
    paths = (reference.double(), centers.double())
    wanted, own = ((path[first] - path[second]).norm(dim=-1) for path in paths)
    if not len(wanted) or wanted.max() <= 0:
        return torch.nan
    slopes, order = torch.where(wanted > 0, own / wanted, 0.0).sort()
    weights = wanted[order].cumsum(dim=0)
    return float(1 / slopes[torch.searchsorted(weights, weights[-1:] / 2)])


def _fit(points_a: Tensor, points_b: Tensor, weights: Tensor | None, with_scale: bool) -> Tensor:
    if weights is None:
        weights = torch.ones_like(points_a[..., 0])
    total = weights.sum(dim=-1)[..., None, None]
    shares = weights[..., None] / torch.where(total > 0, total, torch.ones_like(total))
    mean_a = (shares * points_a).sum(dim=-2)
    mean_b = (shares * points_b).sum(dim=-2)
    centered_a, centered_b = points_a - mean_a[..., None, :], points_b - mean_b[..., None, :]

    covariance = (shares * centered_b).transpose(-1, -2) @ centered_a
    variance_a = (shares * centered_a.square()).sum(dim=(-1, -2))
    # Rounding leaves coinciding points with a variance of about (machine epsilon * distance)^2.
    noise = torch.finfo(points_a.dtype).eps * (mean_a.abs().amax(dim=-1) + 1e-30)
    is_point = variance_a <= (4 * noise).square()

    left, singular, right = torch.linalg.svd(covariance)
    signs = torch.ones_like(singular)
    signs[..., 2] = torch.where(torch.det(left @ right) < 0, -1.0, 1.0).to(signs.dtype)
    rotation = left @ (signs[..., None] * right)
    rotation = torch.where(is_point[..., None, None], torch.eye(3, dtype=rotation.dtype).to(rotation), rotation)

    scale = torch.ones_like(variance_a)
    if with_scale:
        ratio = (singular * signs).sum(dim=-1) / torch.where(is_point, scale, variance_a)
        scale = torch.where(is_point, scale, ratio)
    translation = mean_b - scale[..., None] * (rotation @ mean_a[..., None])[..., 0]
    return similarity(scale, rotation, translation)
