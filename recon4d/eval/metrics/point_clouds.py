"""Distances between clouds of points that do not correspond: nearest neighbors, normals, and a fit by ICP.

Degenerate clouds have stated answers. To an empty cloud every distance is infinite; an empty cloud has accuracy and
completeness infinite, F-score 0 and normal consistency NaN. A cloud of one or two points has no surface: its normals
are along z, as Open3D has it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.eval.alignment.similarity import Alignment

LEAST_FOR_ICP = 3
"""Fewer points leave a turn free, and ICP is not tried."""
NEIGHBORS = 30
"""How many points a normal is estimated from, where there are as many."""


@dataclass(frozen=True)
class CloudDistances:
    """Distances to the nearest neighbor, in the unit of the clouds.

    Accuracy is from the prediction to the truth, completeness from the truth to the prediction.
    """

    accuracy: float
    accuracy_median: float
    completeness: float
    completeness_median: float

    @property
    def chamfer(self) -> float:
        """Mean of mean accuracy and mean completeness; the field also calls it overall."""
        return (self.accuracy + self.completeness) / 2


@dataclass(frozen=True)
class NormalConsistency:
    """|cosine| between a normal and that of its nearest neighbor in the other cloud: 1 where surfaces are parallel.

    `of_prediction` (NC1) is over the predicted points, `of_truth` (NC2) over the true points.
    """

    of_prediction: float
    of_prediction_median: float
    of_truth: float
    of_truth_median: float

    @property
    def mean(self) -> float:
        """The mean of the two means (NC)."""
        return (self.of_prediction + self.of_truth) / 2


def thinned(
    points: Float[Tensor, "n 3"], count: int, seed: int, known: Bool[Tensor, "n"] | None = None
) -> Float[Tensor, "m 3"]:
    """The first `count` known points (all are, where `known` is not given) in an order that depends on n and seed only.

    Two maps of one size so keep the same pixels, where both are known: thinning alone does not move them apart.
    """
    if count < 1:
        raise ValueError(f"a cloud cannot be thinned to {count} points; wanted at least 1")
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed)).to(points.device)
    if known is not None:
        order = order[known[order]]
    return points[order[:count]]


def nearest_neighbors(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """For every point of a the distance to the nearest of b, in float64, and its number; inf and 0 where b is empty."""
    from scipy.spatial import KDTree

    if not len(b):
        return torch.full((len(a),), torch.inf, dtype=torch.float64), torch.zeros(len(a), dtype=torch.int64)
    distances, indices = KDTree(_array(b)).query(_array(a))
    return torch.as_tensor(distances).double(), torch.as_tensor(indices).long()


def nearest_distances(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> Float[Tensor, "n"]:
    """For every point of a the distance to the nearest point of b, in float64 on the CPU; inf where b is empty."""
    return nearest_neighbors(a, b)[0]


def accuracy_and_completeness(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"]) -> CloudDistances:
    """Means and medians of the nearest distances both ways; infinite where either cloud is empty."""
    if not (len(predicted) and len(true)):
        return CloudDistances(math.inf, math.inf, math.inf, math.inf)
    to_truth, to_prediction = nearest_distances(predicted, true).numpy(), nearest_distances(true, predicted).numpy()
    return CloudDistances(
        accuracy=float(to_truth.mean()),
        accuracy_median=float(np.median(to_truth)),
        completeness=float(to_prediction.mean()),
        completeness_median=float(np.median(to_prediction)),
    )


def chamfer(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"]) -> float:
    """Mean of mean accuracy and mean completeness, in the unit of the clouds; infinite where either is empty."""
    return accuracy_and_completeness(predicted, true).chamfer


def f_score(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"], threshold: float) -> float:
    """2PR / (P + R), P and R the shares of predicted and true points nearer than `threshold` to the other cloud.

    0 where neither finds the other, or where either cloud is empty (Knapitsch et al. 2017).
    """
    if not (len(predicted) and len(true)):
        return 0.0
    precision = float((nearest_distances(predicted, true) < threshold).double().mean())
    recall = float((nearest_distances(true, predicted) < threshold).double().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def normals(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Unit normals, of either sign, in float64: the least spread of the 30 nearest points, the point itself included.

    Of fewer than three points: along z.
    """
    cloud = _cloud(points)
    if len(points):
        cloud.estimate_normals(_open3d().geometry.KDTreeSearchParamKNN(knn=NEIGHBORS))
    return torch.as_tensor(np.asarray(cloud.normals).reshape(-1, 3).copy())


def normal_consistency(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"]) -> NormalConsistency:
    """How parallel the surfaces of two clouds are where they are nearest; NaN where either cloud is empty."""
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
    """Rigid point-to-point ICP from `start` (Besl and McKay 1992) by Open3D, at most 30 rounds, in float64.

    Neighbors further than `max_distance` do not pull; the alignment's `count` is how many do in the end. Where fewer
    than three points are in either cloud, or none pulls, it is `start`.
    """
    if not (math.isfinite(max_distance) and max_distance > 0):
        raise ValueError(f"a largest distance of {max_distance:g} for ICP; wanted a positive number")
    if min(len(predicted), len(true)) < LEAST_FOR_ICP:
        return Alignment("ICP", start.double().cpu(), 0)
    registration = _open3d().pipelines.registration
    found = registration.registration_icp(
        _cloud(predicted),
        _cloud(true),
        max_distance,
        _array(start),
        registration.TransformationEstimationPointToPoint(),
    )
    moved = torch.as_tensor(np.array(found.transformation))
    return Alignment("ICP", moved, len(found.correspondence_set))


def _cosines(a: Tensor, b: Tensor) -> np.ndarray:
    return (a * b).sum(dim=-1).abs().numpy()


def _array(points: Tensor) -> np.ndarray:
    return points.detach().double().cpu().numpy()


def _cloud(points: Tensor) -> Any:
    open3d = _open3d()
    cloud = open3d.geometry.PointCloud()
    cloud.points = open3d.utility.Vector3dVector(_array(points))
    return cloud


def _open3d() -> Any:
    """Open3D, saying nothing but errors: its warnings on small clouds are answered by what is stated above."""
    import open3d

    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d
