"""Multi-view point protocol of DUSt3R, Spann3R and CUT3R: median z-shift and scale, center crop and ICP.

The protocol has these steps:

1. Transform the points of all frames to the first camera.
2. Subtract the median z from each cloud.
3. Multiply the prediction by median ||G - med G|| / median ||P - med P||, where med is the median of each coordinate.
4. Add the true median z to both clouds.
5. Crop the maps to their central 224 x 224 pixels.
6. Align by ICP with a largest distance of corresponding points.
7. Measure distances and normals of the whole clouds.

As published, medians of the alignment are those of torch (the lower of the two middle values of an even number), and
medians of distances are those of NumPy. Unlike the published networks, a prediction may leave pixels unknown: they are
excluded from its cloud and from the medians of the alignment.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.metrics.point_clouds import (
    MIN_POINTS_FOR_ICP,
    accuracy_and_completeness,
    align_icp,
    normal_consistency,
)
from recon4d.eval.metrics.score import Metric, Score, length, scores, undefined
from recon4d.eval.metrics.units import length_score
from recon4d.eval.pairing import is_registered
from recon4d.geometry import transform_points
from recon4d.records import Scene
from recon4d.refine.no_solution import NoSolution

CROP = 224
"""Side of the central crop of the maps, in pixels (published protocol)."""
ALIGNED_BY = "median z-shift and scale, ICP"
"""Name of the alignment in scores."""

_CLOUDS = "in the central 224 x 224 pixels of the maps, after median z-shift, median scale and ICP (DUSt3R, CUT3R)"
_COSINE = "|cosine| between the normals of nearest neighbors"


@dataclass(frozen=True)
class ShiftAndScale:
    """Shift along z and scale from a predicted to a true cloud, both in the frame of the first camera."""

    predicted_z: float
    """Median z of the prediction, which is subtracted before scaling."""
    true_z: float
    """Median z of the truth, which is added after scaling."""
    scale: float
    """Factor from the unit of the prediction to the unit of the truth."""

    def apply(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Align predicted points.

        Args:
            points: Predicted points in the frame of the first camera.

        Returns:
            Points in the unit of the truth.
        """
        scaled = (points - points.new_tensor([0.0, 0.0, self.predicted_z])) * self.scale
        return scaled + points.new_tensor([0.0, 0.0, self.true_z])


def shift_and_scale(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> ShiftAndScale:
    """Fit the shift along z and the scale of corresponding points by medians, as published.

    Args:
        predicted: Predicted points in the frame of the first camera.
        true: True points in the same order, in the frame of the first camera.

    Returns:
        The alignment.

    Raises:
        NoSolution: If the median extent of either cloud is 0.
        ValueError: If there are no points or their numbers differ.
    """
    if predicted.shape != true.shape or not len(true):
        raise ValueError(
            f"{len(predicted)} predicted and {len(true)} true points cannot be aligned; their numbers must be equal "
            "and at least 1"
        )
    extent, true_extent = _median_extent(predicted), _median_extent(true)
    if not (extent > 0 and true_extent > 0):
        raise NoSolution(
            f"the clouds have median extents of {extent:g} (predicted) and {true_extent:g} (true); both must be above 0"
        )
    return ShiftAndScale(
        predicted_z=float(predicted[:, 2].median()), true_z=float(true[:, 2].median()), scale=true_extent / extent
    )


def is_in_center(height: int, width: int) -> Bool[Tensor, "height width"]:
    """Select the central 224 x 224 pixels of a map.

    Args:
        height: Height of the map in pixels.
        width: Width of the map in pixels.

    Returns:
        Mask of the crop. Axes shorter than the crop are kept whole; an odd remainder is split with the smaller half
        above and to the left.
    """
    inside = torch.zeros(height, width, dtype=torch.bool)
    top, left = max(height // 2 - CROP // 2, 0), max(width // 2 - CROP // 2, 0)
    inside[top : top + CROP, left : left + CROP] = True
    return inside


@scores(
    "Published protocols",
    length("multiview_accuracy", f"Mean distance from predicted points to the nearest true point {_CLOUDS}."),
    length("multiview_accuracy_median", f"Median distance from predicted points to the nearest true point {_CLOUDS}."),
    length("multiview_completeness", f"Mean distance from true points to the nearest predicted point {_CLOUDS}."),
    length(
        "multiview_completeness_median", f"Median distance from true points to the nearest predicted point {_CLOUDS}."
    ),
    Metric("multiview_nc1", "ratio", "higher", f"Mean {_COSINE}, over predicted points {_CLOUDS}."),
    Metric("multiview_nc1_median", "ratio", "higher", f"Median {_COSINE}, over predicted points {_CLOUDS}."),
    Metric("multiview_nc2", "ratio", "higher", f"Mean {_COSINE}, over true points {_CLOUDS}."),
    Metric("multiview_nc2_median", "ratio", "higher", f"Median {_COSINE}, over true points {_CLOUDS}."),
    Metric("multiview_nc", "ratio", "higher", "Mean of multiview_nc1 and multiview_nc2."),
    Metric("multiview_nc_median", "ratio", "higher", "Mean of multiview_nc1_median and multiview_nc2_median."),
    protocol="multiview-points",
)
def multiview_point_scores(prediction: Scene, truth: Scene, icp_distance: float = 0.1) -> tuple[Score, ...]:
    """Score the predicted point maps by the published multi-view protocol.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.
        icp_distance: Largest distance of corresponding points in ICP, in the unit of the truth. The published values
            are 0.1 meters and, for DTU, 100 millimeters.

    Returns:
        The scores of `multiview_point_scores.metrics`, in their order; empty if the truth has no known points.
    """
    is_true = truth.point_confidence > 0
    center = is_in_center(*truth.size).to(is_true.device)
    total = int((is_true & center).sum())
    if not is_true.any():
        return ()
    if not (is_registered(truth)[0] and is_registered(prediction)[0]):
        return _undefined(total, "the first camera is not known in both prediction and truth")
    true, predicted = _in_first_camera(truth), _in_first_camera(prediction)
    is_known = is_true & (prediction.point_confidence > 0)
    if not is_known.any():
        return _undefined(total, "no point is known in both prediction and truth")
    try:
        fit = shift_and_scale(predicted[is_known], true[is_known])
    except NoSolution as reason:
        return _undefined(total, str(reason))

    cloud, true_cloud = fit.apply(predicted[is_known & center]), true[is_true & center]
    if min(len(cloud), len(true_cloud)) < MIN_POINTS_FOR_ICP:
        note = (
            f"the central crop has {len(cloud)} predicted and {len(true_cloud)} true points; at least "
            f"{MIN_POINTS_FOR_ICP} of each are needed"
        )
        return _undefined(total, note)
    registered = align_icp(cloud, true_cloud, icp_distance, torch.eye(4, dtype=cloud.dtype))
    return _cloud_scores(transform_points(registered.truth_from_prediction.to(cloud), cloud), true_cloud, truth)


def _cloud_scores(predicted: Tensor, true: Tensor, truth: Scene) -> tuple[Score, ...]:
    distances, consistency = accuracy_and_completeness(predicted, true), normal_consistency(predicted, true)
    median = (consistency.of_prediction_median + consistency.of_truth_median) / 2
    n, m = len(predicted), len(true)
    values = (
        (distances.accuracy, n),
        (distances.accuracy_median, n),
        (distances.completeness, m),
        (distances.completeness_median, m),
        (consistency.of_prediction, n),
        (consistency.of_prediction_median, n),
        (consistency.of_truth, m),
        (consistency.of_truth_median, m),
        (consistency.mean, m),
        (median, m),
    )
    found = []
    for metric, (value, count) in zip(multiview_point_scores.metrics, values, strict=True):
        score = Score(metric.name, value, count, m, ALIGNED_BY)
        found.append(length_score(score, truth) if metric.unit == "m" else score)
    return tuple(found)


def _in_first_camera(scene: Scene) -> Tensor:
    return scene.in_frame(0).points.double()


def _median_extent(points: Tensor) -> float:
    """Return the median distance from the median of each coordinate."""
    return float((points - points.median(dim=0).values).norm(dim=-1).median())


def _undefined(total: int, note: str) -> tuple[Score, ...]:
    return tuple(undefined(metric.name, total, note, ALIGNED_BY) for metric in multiview_point_scores.metrics)
