"""Alignment of depth maps to triangulated points: the shapes of a network, at the depths that cameras determine.

Log depth is corrected by a smooth field. It is first affine in the predicted log depth and the pixel coordinates, since
networks err in scale, contrast and slope. The remaining error near each point is then interpolated by Gaussian kernels
of decreasing size, which do not reach across discontinuities of the predicted depth.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import pixel_grid, pixel_indices
from recon4d.records import Scene
from recon4d.refine.track_transfer import transfer_tracks

MIN_POINTS = 20
"""Smallest number of points of a frame; with fewer, its depth is unchanged. Hand-tuned."""
NODES_PER_SCALE = 1.6
"""Nodes of the grid of smoothed values within the standard deviation of a kernel."""
NUM_DEPTHS = 32
"""Nodes of the grid in log depth."""
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

    def resized(self, old: tuple[int, int], new: tuple[int, int]) -> "PointDepths":
        """Scale the pixel coordinates to maps of another size.

        Args:
            old: Height and width of the present maps.
            new: Height and width of the other maps.

        Returns:
            The same points in pixels of the other maps.
        """
        factors = self.pixels.new_tensor([new[1] / old[1], new[0] / old[0]])
        return replace(self, pixels=self.pixels * factors)


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
    factors = torch.ones_like(depths)
    is_enough = (points.is_valid.sum(dim=1) >= MIN_POINTS).tolist()
    for frame in [frame for frame, enough in enumerate(is_enough) if enough]:
        factors[frame] = _fit_frame(depths[frame], points.pixels[frame], points.depths[frame], points.is_valid[frame])
    return factors


def depth_errors(depths: Float[Tensor, "time height width"], points: PointDepths) -> Float[Tensor, " point"]:
    """Compute the absolute difference of log depth between maps and points.

    Args:
        depths: Depth maps; unknown values (0) are replaced by the median of their frame.
        points: Depths of points in pixels of the maps.

    Returns:
        Differences at all valid points of all frames, clipped to 1.
    """
    return _log_ratios(depths, points).abs().clamp(max=1)


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
    depths: Float[Tensor, "height width"],
    pixels: Float[Tensor, "point 2"],
    targets: Float[Tensor, " point"],
    is_valid: Bool[Tensor, " point"],
) -> Float[Tensor, "height width"]:
    """Fit the factors of one frame, without waiting for the device."""
    depths = _fill_unknown(depths)
    height, width = depths.shape
    side, center = max(height, width), pixels.new_tensor([0.5 * width, 0.5 * height])
    places = [(one - center) / side for one in (pixel_grid(height, width, depths.device).flatten(0, 1), pixels)]
    logs = [depths.log().flatten(), torch.where(is_valid, _sample(depths, pixels).log(), 0.0)]
    residual = torch.where(is_valid, targets.log() - logs[1], 0.0)

    known = torch.where(is_valid, logs[1], torch.nan)
    middle = known.nanmedian()
    nearest, farthest = (torch.where(is_valid, logs[1], end) for end in (torch.inf, -torch.inf))
    # Outside the depth range of the points, a correction of the contrast would be an extrapolation.
    in_range = logs[0].clamp(nearest.amin(), farthest.amax())
    of_pixels, of_points = (_features(one - middle, at) for one, at in zip((in_range, logs[1]), places, strict=True))
    change = _robust_fit(of_points, residual, is_valid)
    correction, residual = of_pixels @ change, torch.where(is_valid, residual - of_points @ change, 0.0)
    weights = is_valid / (1 + (residual / (3 * LARGE_ERROR)).square())
    for scale in KERNEL_SCALES:
        grid = _BilateralGrid.create(places[1], logs[1], weights, residual, scale)
        correction = correction + grid.smooth(places[0], logs[0])
        residual = residual - grid.smooth(places[1], logs[1])
    return correction.reshape(depths.shape).exp()


@dataclass(frozen=True)
class _BilateralGrid:
    """Values at points, smoothed by a Gaussian kernel in position and log depth (bilateral grid, Chen et al. 2007).

    Sums over points are exact at the nodes and interpolated between them, so the cost does not grow with the product
    of points and pixels.
    """

    sums: Float[Tensor, "2 depth row column"]
    """Sums of weights times values, and of weights."""
    nearest: Float[Tensor, ""]
    farthest: Float[Tensor, ""]

    @staticmethod
    def create(
        places: Float[Tensor, "point 2"],
        logs: Float[Tensor, " point"],
        weights: Float[Tensor, " point"],
        values: Float[Tensor, " point"],
        scale: float,
    ) -> "_BilateralGrid":
        """Sum over points at all nodes; places reach from -0.5 to 0.5."""
        is_valid = weights > 0
        margin = SAME_SURFACE
        nearest = torch.where(is_valid, logs, torch.inf).amin() - margin
        farthest = torch.where(is_valid, logs, -torch.inf).amax() + margin
        num_nodes = math.ceil(NODES_PER_SCALE / scale)
        nodes = (torch.arange(num_nodes, device=logs.device) + 0.5) / num_nodes - 0.5
        depths = nearest + (farthest - nearest) * torch.linspace(0, 1, NUM_DEPTHS, device=logs.device)
        column, row = (_gaussian(nodes[:, None], one, scale) for one in places.unbind(-1))
        depth = _gaussian(depths[:, None], logs, SAME_SURFACE)
        weighted = torch.cat([depth * (weights * values), depth * weights])
        sums = weighted @ (row[:, None] * column).flatten(0, 1).T
        return _BilateralGrid(sums.reshape(2, NUM_DEPTHS, num_nodes, num_nodes), nearest, farthest)

    def smooth(self, places: Float[Tensor, "n 2"], logs: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Compute the weighted mean of the values about each place."""
        depth = 2 * (logs - self.nearest) / (self.farthest - self.nearest) - 1
        # The first and the last depth are nodes, whose centers `grid_sample` puts half a node inside.
        coordinates = torch.cat([2 * places, depth[:, None] * (1 - 1 / NUM_DEPTHS)], dim=-1)
        sums = F.grid_sample(
            self.sums[None], coordinates[None, None, None], padding_mode="border", align_corners=False
        )[0, :, 0, 0]
        return sums[0] / (sums[1] + KERNEL_PRIOR)


def _gaussian(a: Tensor, b: Tensor, deviation: float) -> Tensor:
    return torch.exp(-0.5 * ((a - b) / deviation).square())


def _features(logs: Float[Tensor, " n"], places: Float[Tensor, "n 2"]) -> Float[Tensor, "n 4"]:
    """Build the regressors of the affine correction: constant, log depth (contrast) and both slopes."""
    return torch.cat([torch.ones_like(logs)[:, None], logs[:, None], places], dim=-1)


def _robust_fit(
    features: Float[Tensor, "point 4"], targets: Float[Tensor, " point"], is_valid: Bool[Tensor, " point"]
) -> Float[Tensor, "4"]:
    """Solve regularized least squares with a Cauchy loss by iterative reweighting."""
    features, targets, weights = features.double(), targets.double(), is_valid.double()
    change = features.new_zeros(4)
    prior = torch.diag(features.new_tensor(AFFINE_PRIOR))
    for _ in range(NUM_ROUNDS):
        weighted = features * weights[:, None]
        change = torch.linalg.solve_ex(weighted.T @ features + prior, weighted.T @ targets)[0]
        weights = is_valid / (1 + ((targets - features @ change) / LARGE_ERROR).square())
    return change.float()


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
    known = torch.where(depths > 0, depths, torch.nan)
    return torch.where(depths > 0, depths, known.nanmedian().nan_to_num(1.0))


def _sample(depths: Float[Tensor, "height width"], pixels: Float[Tensor, "point 2"]) -> Float[Tensor, " point"]:
    return depths[pixel_indices(pixels, (depths.shape[0], depths.shape[1]))]
