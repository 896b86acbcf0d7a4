"""Multi-view reconstruction as DUSt3R, Spann3R and CUT3R publish it: z-shift and scale by medians, a center crop, ICP.

The steps, in their order: points of all frames in the coordinates of the first camera; the median z taken from each
cloud; the prediction multiplied by median ||G - med G|| / median ||P - med P|| (med: the median of each coordinate);
the true median z added back to both; the center 224 x 224 of the maps; ICP, no neighbor further than `icp_distance`;
distances and normals of whole clouds. Medians are torch's (of an even number the lower of the middle two) where the
clouds are laid over each other, numpy's where distances are summed up, as published. Not published, since there every
pixel is predicted: a pixel that the prediction does not know is left out of its cloud and of all the medians above.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.metrics.point_clouds import (
    LEAST_FOR_ICP,
    accuracy_and_completeness,
    align_icp,
    normal_consistency,
)
from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.units import length_score
from recon4d.eval.pairing import is_registered
from recon4d.geometry import transform_points
from recon4d.records import Scene

CROP = 224
"""Side in pixels of the middle of the maps that is measured."""
ALIGNED_BY = "median z-shift and scale, ICP"

_CLOUDS = "of the center 224 x 224 of the maps, after median z-shift, median scale and ICP (DUSt3R, CUT3R)"
_COSINE = "absolute cosine between normals of nearest neighbors"

MULTIVIEW_POINT_METRICS: tuple[Metric, ...] = (
    Metric("multiview_accuracy", "m", "lower", f"Mean distance from predicted to nearest true points {_CLOUDS}."),
    Metric(
        "multiview_accuracy_median", "m", "lower", f"Median distance from predicted to nearest true points {_CLOUDS}."
    ),
    Metric("multiview_completeness", "m", "lower", f"Mean distance from true to nearest predicted points {_CLOUDS}."),
    Metric(
        "multiview_completeness_median",
        "m",
        "lower",
        f"Median distance from true to nearest predicted points {_CLOUDS}.",
    ),
    Metric("multiview_nc1", "ratio", "higher", f"Mean {_COSINE}, over predicted points {_CLOUDS}."),
    Metric("multiview_nc1_median", "ratio", "higher", f"Median {_COSINE}, over predicted points {_CLOUDS}."),
    Metric("multiview_nc2", "ratio", "higher", f"Mean {_COSINE}, over true points {_CLOUDS}."),
    Metric("multiview_nc2_median", "ratio", "higher", f"Median {_COSINE}, over true points {_CLOUDS}."),
    Metric("multiview_nc", "ratio", "higher", "Mean of multiview_nc1 and multiview_nc2."),
    Metric("multiview_nc_median", "ratio", "higher", "Mean of multiview_nc1_median and multiview_nc2_median."),
)


@dataclass(frozen=True)
class ShiftAndScale:
    """Moves a predicted cloud along z and scales it to a true one, both in the first camera's coordinates."""

    predicted_z: float
    """Median z of the prediction, which becomes 0 before it is scaled."""
    true_z: float
    """Median z of the truth, which is added back."""
    scale: float

    def apply(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Predicted points over the true ones."""
        moved = (points - points.new_tensor([0.0, 0.0, self.predicted_z])) * self.scale
        return moved + points.new_tensor([0.0, 0.0, self.true_z])


def shift_and_scale(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> ShiftAndScale:
    """The published fit of corresponding points by medians; ValueError where either cloud has no extent."""
    if predicted.shape != true.shape or not len(true):
        raise ValueError(f"{len(predicted)} predicted and {len(true)} true points; wanted the same number, at least 1")
    spread, true_spread = _median_spread(predicted), _median_spread(true)
    if not (spread > 0 and true_spread > 0):
        raise ValueError(f"median spreads of {spread:g} (predicted) and {true_spread:g} (true); wanted both above 0")
    return ShiftAndScale(
        predicted_z=float(predicted[:, 2].median()),
        true_z=float(true[:, 2].median()),
        scale=true_spread / spread,
    )


def is_in_center(height: int, width: int) -> Bool[Tensor, "height width"]:
    """The middle 224 x 224 pixels; shorter axes are whole. Of an odd rest the smaller half is above and left."""
    inside = torch.zeros(height, width, dtype=torch.bool)
    top, left = max(height // 2 - CROP // 2, 0), max(width // 2 - CROP // 2, 0)
    inside[top : top + CROP, left : left + CROP] = True
    return inside


def multiview_point_scores(prediction: Scene, truth: Scene, icp_distance: float = 0.1) -> tuple[Score, ...]:
    """The scores of `MULTIVIEW_POINT_METRICS` of paired scenes; none where the truth knows no point.

    `icp_distance` is in the truth's unit (published: 0.1 meters, for DTU 100 millimeters).
    """
    known = truth.point_confidence > 0
    total = int((known & is_in_center(*truth.size).to(known.device)).sum())
    if not known.any():
        return ()
    if not (is_registered(truth)[0] and is_registered(prediction)[0]):
        return _undefined(total, "the first camera is not known in both prediction and truth")
    true, predicted = _in_first_camera(truth), _in_first_camera(prediction)
    both = known & (prediction.point_confidence > 0)
    if not both.any():
        return _undefined(total, "no point is known in both prediction and truth")
    try:
        fit = shift_and_scale(predicted[both], true[both])
    except ValueError as reason:
        return _undefined(total, str(reason))

    center = is_in_center(*truth.size).to(known.device)
    cloud, true_cloud = fit.apply(predicted[both & center]), true[known & center]
    if min(len(cloud), len(true_cloud)) < LEAST_FOR_ICP:
        return _undefined(total, f"{len(cloud)} predicted points are in the center; wanted at least {LEAST_FOR_ICP}")
    registered = align_icp(cloud, true_cloud, icp_distance, torch.eye(4, dtype=cloud.dtype))
    return _cloud_scores(transform_points(registered.truth_from_prediction.to(cloud), cloud), true_cloud, truth)


def _cloud_scores(predicted: Tensor, true: Tensor, truth: Scene) -> tuple[Score, ...]:
    distances, parallel = accuracy_and_completeness(predicted, true), normal_consistency(predicted, true)
    median = (parallel.of_prediction_median + parallel.of_truth_median) / 2
    n, m = len(predicted), len(true)
    values = (
        (distances.accuracy, n),
        (distances.accuracy_median, n),
        (distances.completeness, m),
        (distances.completeness_median, m),
        (parallel.of_prediction, n),
        (parallel.of_prediction_median, n),
        (parallel.of_truth, m),
        (parallel.of_truth_median, m),
        (parallel.mean, m),
        (median, m),
    )
    scores = []
    for metric, (value, count) in zip(MULTIVIEW_POINT_METRICS, values, strict=True):
        score = Score(metric.name, value, count, m, ALIGNED_BY)
        scores.append(length_score(score, truth) if metric.unit == "m" else score)
    return tuple(scores)


def _in_first_camera(scene: Scene) -> Tensor:
    return scene.in_frame(0).points.double()


def _median_spread(points: Tensor) -> float:
    return float((points - points.median(dim=0).values).norm(dim=-1).median())


def _undefined(total: int, note: str) -> tuple[Score, ...]:
    return tuple(undefined(metric.name, total, note, ALIGNED_BY) for metric in MULTIVIEW_POINT_METRICS)
