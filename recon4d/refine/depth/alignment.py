"""Alignment of depth maps to triangulated points: the shapes of a network, at the depths that cameras determine.

Log depth is corrected by a smooth field. It is first affine in the predicted log depth and the pixel coordinates, since
networks err in scale, contrast and slope. The remaining error near each point is then interpolated by Gaussian kernels
of decreasing size, which do not reach across discontinuities of the predicted depth.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import pixel_indices
from recon4d.records import Scene
from recon4d.refine.track_transfer import transfer_tracks

MIN_POINTS = 20
"""Smallest number of points of a frame; with fewer, its depth is unchanged. Hand-tuned."""
GRID_SIDE = 64
"""Cells of the field along the longer side of the map; depth keeps its own detail. Hand-tuned."""
KERNEL_SCALES = (0.125, 0.04, 0.025)
"""Standard deviations of successive kernels, as fractions of the longer side. Hand-tuned."""
SAME_SURFACE = 0.15
"""Standard deviation of the kernels in predicted log depth, which separates surfaces. Hand-tuned."""
LARGE_ERROR = 0.1
"""Scale of the Cauchy loss of the affine fit, in log depth. Hand-tuned."""
KERNEL_PRIOR = 0.3
"""Weight of a zero correction in units of points: far from all points nothing changes. Hand-tuned."""
AFFINE_PRIOR = (1e-3, 3.0, 3.0, 3.0)
"""Weights of zero change of scale, contrast and the two slopes, in units of points. Hand-tuned."""
NUM_ROUNDS = 10
"""Rounds of iteratively reweighted least squares."""


@dataclass(frozen=True)
class PointDepths:
    """Depths of points in the frames that observe them."""

    pixels: Float[Tensor, "time point 2"]
    """Pixel coordinates (x, y)."""
    depths: Float[Tensor, "time point"]
    """Depths in the unit of the scene."""
    is_valid: Bool[Tensor, "time point"]
    """Whether the frame observes the point and its depth is determined."""


def fit_depth_alignment(
    depths: Float[Tensor, "time height width"], points: PointDepths
) -> Float[Tensor, "time height width"]:
    """Fit factors that align depth maps to points.

    Args:
        depths: Depth maps; 0 where unknown.
        points: Depths of points in pixels of the maps.

    Returns:
        Positive factors for each pixel; 1 in frames with fewer than `MIN_POINTS` points.
    """
    return torch.stack(
        [
            _fit_frame(depths[frame], points.pixels[frame][is_valid], points.depths[frame][is_valid])
            for frame, is_valid in enumerate(points.is_valid)
        ]
    )


def depth_errors(depths: Float[Tensor, "time height width"], points: PointDepths) -> Float[Tensor, " point"]:
    """Compute the absolute difference of log depth between maps and points.

    Args:
        depths: Depth maps; unknown values (0) are replaced by the median of their frame.
        points: Depths of points in pixels of the maps.

    Returns:
        Differences at all valid points of all frames, clipped to 1.
    """
    return _log_ratios(depths, points).abs().clamp(max=1)


def correlation(depths: Float[Tensor, "time height width"], points: PointDepths) -> float:
    """Compute the correlation of log depth between maps and points.

    Args:
        depths: Depth maps; unknown values (0) are replaced by the median of their frame.
        points: Depths of points in pixels of the maps.

    Returns:
        Pearson correlation in [-1, 1]; negative if near and far are interchanged.
    """
    of_points = points.depths[points.is_valid].log()
    return float(torch.corrcoef(torch.stack([of_points - _log_ratios(depths, points), of_points]))[0, 1])


def median_ratio(depths: Float[Tensor, "time height width"], points: PointDepths) -> float:
    """Compute the median ratio of the depths of points to those of maps.

    Args:
        depths: Depth maps; unknown values (0) are replaced by the median of their frame.
        points: Depths of points in pixels of the maps.

    Returns:
        The factor that brings the maps to the scale of the points.
    """
    return float(_log_ratios(depths, points).median().exp())


def scale_depth(scene: Scene, factors: Float[Tensor, "time height width"]) -> Scene:
    """Multiply the depth of a scene, and let its points and tracks follow.

    Args:
        scene: A single scene.
        factors: Factors for each pixel.

    Returns:
        The scene with new depth, with points from this depth, and with transferred tracks (`transfer_tracks`).
    """
    after = replace(scene, depths=scene.depths * factors)
    return replace(after, points=after.points_from_depth, tracks=transfer_tracks(scene, after))


def _fit_frame(
    depths: Float[Tensor, "height width"], pixels: Float[Tensor, "point 2"], targets: Float[Tensor, " point"]
) -> Float[Tensor, "height width"]:
    if len(targets) < MIN_POINTS:
        return torch.ones_like(depths)
    depths = _fill_unknown(depths)
    height, width = depths.shape
    side = max(height, width)
    grid = [max(1, round(GRID_SIDE * length / side)) for length in (height, width)]
    cells = F.interpolate(depths.log()[None, None], grid, mode="area").flatten()
    rows, columns = ((torch.arange(n) + 0.5) * (length / n) for n, length in zip(grid, depths.shape, strict=True))
    centers = torch.cartesian_prod(rows, columns).reshape(-1, 2).flip(-1)

    at_points = _sample(depths, pixels).log()
    residual = targets.log() - at_points
    middle = at_points.median()
    # Outside the depth range of the points, a correction of the contrast would be an extrapolation.
    in_range = cells.clamp(at_points.min(), at_points.max())
    design = [_features(logs - middle, places / side) for logs, places in ((at_points, pixels), (in_range, centers))]
    change = _robust_fit(design[0], residual)
    correction, residual = design[1] @ change, residual - design[0] @ change
    weights = 1 / (1 + (residual / (3 * LARGE_ERROR)).square())
    distances = [torch.cdist(places, pixels) / side for places in (pixels, centers)]
    jumps = [(logs[:, None] - at_points).abs() / SAME_SURFACE for logs in (at_points, cells)]
    for scale in KERNEL_SCALES:
        smooth_at_points, smooth = (
            _smooth(weights * torch.exp(-0.5 * ((distance / scale).square() + jump.square())), residual)
            for distance, jump in zip(distances, jumps, strict=True)
        )
        correction, residual = correction + smooth, residual - smooth_at_points
    maps = F.interpolate(correction.reshape(1, 1, *grid), depths.shape, mode="bilinear", align_corners=False)
    return maps[0, 0].exp()


def _features(logs: Float[Tensor, " n"], places: Float[Tensor, "n 2"]) -> Float[Tensor, "n 4"]:
    """Build the regressors of the affine correction: constant, log depth (contrast) and both slopes."""
    return torch.cat([torch.ones_like(logs)[:, None], logs[:, None], places - 0.5], dim=-1)


def _robust_fit(features: Float[Tensor, "point 4"], targets: Float[Tensor, " point"]) -> Float[Tensor, "4"]:
    """Solve regularized least squares with a Cauchy loss by iterative reweighting."""
    features, targets = features.double(), targets.double()
    weights = torch.ones_like(targets)
    change = features.new_zeros(4)
    for _ in range(NUM_ROUNDS):
        weighted = features * weights[:, None]
        normal = weighted.T @ features + torch.diag(features.new_tensor(AFFINE_PRIOR))
        change = torch.linalg.solve(normal, weighted.T @ targets)
        weights = 1 / (1 + ((targets - features @ change) / LARGE_ERROR).square())
    return change.float()


def _smooth(weights: Float[Tensor, "n point"], values: Float[Tensor, " point"]) -> Float[Tensor, " n"]:
    return weights @ values / (weights.sum(dim=1) + KERNEL_PRIOR)


def _log_ratios(depths: Float[Tensor, "time height width"], points: PointDepths) -> Float[Tensor, " point"]:
    """Compute the log ratio of the points' depths to the maps', at all valid points of all frames."""
    ratios = [
        _log_ratio(depths[frame], points.pixels[frame][is_valid], points.depths[frame][is_valid])
        for frame, is_valid in enumerate(points.is_valid)
    ]
    return torch.cat(ratios)


def _log_ratio(depths: Tensor, pixels: Tensor, targets: Tensor) -> Float[Tensor, " point"]:
    return targets.log() - _sample(_fill_unknown(depths), pixels).log()


def _fill_unknown(depths: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """Replace unknown depth (0) by the median of the others, so that its logarithm exists."""
    is_known = depths > 0
    return torch.where(is_known, depths, depths[is_known].median() if is_known.any() else 1.0)


def _sample(depths: Float[Tensor, "height width"], pixels: Float[Tensor, "point 2"]) -> Float[Tensor, " point"]:
    return depths[pixel_indices(pixels, (depths.shape[0], depths.shape[1]))]
