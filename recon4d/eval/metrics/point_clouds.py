"""Distances between point clouds without correspondences: nearest neighbors, normals and ICP.

Results for degenerate clouds: the distance to an empty cloud is infinite, and so are accuracy and completeness; the
F-score is 0 and the normal consistency NaN. Clouds of one or two points define no surface: their normals are along z,
as in Open3D.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.eval.alignment.similarity import Alignment
from recon4d.io.open3d_loader import load_open3d

MIN_POINTS_FOR_ICP = 3
"""Minimum number of points of a cloud for ICP: fewer do not determine a rotation."""
NEIGHBORS = 30
"""Number of nearest points that a normal is estimated from (all points if there are fewer); default of Open3D."""


@dataclass(frozen=True)
class CloudDistances:
    """Distances to the nearest neighbor in the other cloud, in the unit of the clouds; infinite if a cloud is empty."""

    accuracy: float
    """Mean distance from predicted points to the truth."""
    accuracy_median: float
    """Median distance from predicted points to the truth."""
    completeness: float
    """Mean distance from true points to the prediction."""
    completeness_median: float
    """Median distance from true points to the prediction."""

    @property
    def chamfer(self) -> float:
        """Mean of accuracy and completeness, also known as overall distance."""
        return (self.accuracy + self.completeness) / 2


@dataclass(frozen=True)
class NormalConsistency:
    """|cosine| between the normals of nearest neighbors: 1 for parallel surfaces, NaN if a cloud is empty."""

    of_prediction: float
    """Mean over predicted points (NC1)."""
    of_prediction_median: float
    """Median over predicted points."""
    of_truth: float
    """Mean over true points (NC2)."""
    of_truth_median: float
    """Median over true points."""

    @property
    def mean(self) -> float:
        """Mean of both means (NC)."""
        return (self.of_prediction + self.of_truth) / 2


def subsample(
    points: Float[Tensor, "n 3"], count: int, seed: int, is_known: Bool[Tensor, "n"] | None = None
) -> Float[Tensor, "m 3"]:
    """Draw a random subset of the points.

    The order of the points depends only on their number and the seed. Two maps of the same size therefore keep the same
    pixels where both are known, so that subsampling adds no distance between them.

    Args:
        points: Points of the cloud or map.
        count: Largest number of points to keep, at least 1.
        seed: Seed of the random order.
        is_known: Points that may be kept; None for all.

    Returns:
        At most `count` known points, in random order.

    Raises:
        ValueError: If `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1 to subsample a point cloud, given {count}")
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed)).to(points.device)
    if is_known is not None:
        order = order[is_known[order]]
    return points[order[:count]]


def nearest_neighbors(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """Find the nearest neighbor of every point of `a` in `b`.

    Args:
        a: Query points.
        b: Points to search.

    Returns:
        Distances in float64 and indices into `b`, both on the CPU; infinity and 0 if `b` is empty.
    """
    from scipy.spatial import KDTree

    if not len(b):
        return torch.full((len(a),), torch.inf, dtype=torch.float64), torch.zeros(len(a), dtype=torch.int64)
    distances, indices = KDTree(_array(b)).query(_array(a))
    return torch.as_tensor(distances).double(), torch.as_tensor(indices).long()


def nearest_distances(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> Float[Tensor, "n"]:
    """Compute the distance from every point of `a` to the nearest point of `b`.

    Args:
        a: Query points.
        b: Points to search.

    Returns:
        Distances in float64 on the CPU; infinity if `b` is empty.
    """
    return nearest_neighbors(a, b)[0]


def accuracy_and_completeness(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"]) -> CloudDistances:
    """Compute the distances between nearest neighbors in both directions.

    Args:
        predicted: Predicted points.
        true: True points.

    Returns:
        Means and medians in both directions; infinite if either cloud is empty.
    """
    if not (len(predicted) and len(true)):
        return CloudDistances(math.inf, math.inf, math.inf, math.inf)
    to_truth, to_prediction = nearest_distances(predicted, true).numpy(), nearest_distances(true, predicted).numpy()
    return CloudDistances(
        accuracy=float(to_truth.mean()),
        accuracy_median=float(np.median(to_truth)),
        completeness=float(to_prediction.mean()),
        completeness_median=float(np.median(to_prediction)),
    )


def f_score(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"], threshold: float) -> float:
    """Compute the F-score of Tanks and Temples (Knapitsch et al. 2017).

    Args:
        predicted: Predicted points.
        true: True points.
        threshold: Distance below which a point is correct, in the unit of the clouds.

    Returns:
        2PR / (P + R), where precision P and recall R are the shares of predicted and true points closer than the
        threshold to the other cloud; 0 if both are 0 or either cloud is empty.
    """
    if not (len(predicted) and len(true)):
        return 0.0
    precision = float((nearest_distances(predicted, true) < threshold).double().mean())
    recall = float((nearest_distances(true, predicted) < threshold).double().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def normals(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Estimate normals as the direction of least variance of the 30 nearest points, including the point itself.

    Args:
        points: Points of the cloud.

    Returns:
        Unit normals of arbitrary sign in float64 on the CPU; along z for clouds of fewer than three points.
    """
    cloud = _cloud(points)
    if len(points):
        cloud.estimate_normals(load_open3d().geometry.KDTreeSearchParamKNN(knn=NEIGHBORS))
    return torch.as_tensor(np.asarray(cloud.normals).reshape(-1, 3).copy())


def normal_consistency(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"]) -> NormalConsistency:
    """Compute the normal consistency of two clouds.

    Args:
        predicted: Predicted points.
        true: True points.

    Returns:
        Means and medians of |cosine| between the normals of nearest neighbors, in both directions; NaN if either cloud
        is empty.
    """
    if not (len(predicted) and len(true)):
        return NormalConsistency(math.nan, math.nan, math.nan, math.nan)
    predicted_normals, true_normals = normals(predicted), normals(true)
    of_prediction = _cosines(predicted_normals, true_normals[nearest_neighbors(predicted, true)[1]])
    of_truth = _cosines(true_normals, predicted_normals[nearest_neighbors(true, predicted)[1]])
    return NormalConsistency(
        of_prediction=float(of_prediction.mean()),
        of_prediction_median=float(np.median(of_prediction)),
        of_truth=float(of_truth.mean()),
        of_truth_median=float(np.median(of_truth)),
    )


def align_icp(
    predicted: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"], max_distance: float, start: Float[Tensor, "4 4"]
) -> Alignment:
    """Align two clouds by rigid point-to-point ICP (Besl and McKay 1992) in float64, with at most 30 iterations.

    Args:
        predicted: Points to move.
        true: Target points.
        max_distance: Largest distance of corresponding points, in the unit of the clouds; farther neighbors are
            ignored.
        start: Initial transform from prediction to truth.

    Returns:
        The alignment; its `count` is the final number of correspondences. It equals `start` if either cloud has fewer
        than three points or there are no correspondences.

    Raises:
        ValueError: If `max_distance` is not positive and finite.
    """
    if not (math.isfinite(max_distance) and max_distance > 0):
        raise ValueError(f"max_distance of ICP must be positive and finite, given {max_distance:g}")
    if min(len(predicted), len(true)) < MIN_POINTS_FOR_ICP:
        return Alignment("ICP", start.double().cpu(), 0)
    registration = load_open3d().pipelines.registration
    result = registration.registration_icp(
        _cloud(predicted),
        _cloud(true),
        max_distance,
        _array(start),
        registration.TransformationEstimationPointToPoint(),
    )
    truth_from_prediction = torch.as_tensor(np.array(result.transformation))
    return Alignment("ICP", truth_from_prediction, len(result.correspondence_set))


def _cosines(a: Tensor, b: Tensor) -> np.ndarray:
    return (a * b).sum(dim=-1).abs().numpy()


def _array(points: Tensor) -> np.ndarray:
    return points.detach().double().cpu().numpy()


def _cloud(points: Tensor) -> Any:
    open3d = load_open3d()
    cloud = open3d.geometry.PointCloud()
    cloud.points = open3d.utility.Vector3dVector(_array(points))
    return cloud
