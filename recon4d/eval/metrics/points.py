"""Metrics of point maps after one similarity transform per clip, per pixel and as point clouds.

The similarity transform is fitted to all pixels whose points are known in both scenes (Umeyama 1991) and shared by all
metrics; points from depth and cameras have their own. Point clouds are subsampled to 20000 points each. The order of
pixels is fixed, so a pixel known in both scenes is kept either in both clouds or in neither.
"""

import math

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.errors import UserError
from recon4d.eval.alignment.similarity import Alignment, align_sim3, corresponding_points
from recon4d.eval.metrics.cameras import median_depth
from recon4d.eval.metrics.point_clouds import accuracy_and_completeness, f_score, normal_consistency, subsample
from recon4d.eval.metrics.score import Metric, Score, length, scores, share, undefined
from recon4d.eval.metrics.units import length_score
from recon4d.eval.pairing import is_registered
from recon4d.geometry import transform_points
from recon4d.records import Scene

CLOUD_SIZE = 20_000
"""Largest number of points of a cloud. Hand-tuned for the run time of nearest neighbors."""
SEED = 0
"""Seed of the subsampling."""
F_SCORE_SHARE = 0.05
"""Distance threshold of the F-score, as a share of the median true depth. Hand-tuned."""
MIN_POINTS = 3
"""Minimum number of corresponding points: fewer do not determine a similarity transform."""
ALIGNED_BY = "sim3"
"""Name of the alignment in scores."""

_CLOUDS = f"on clouds of all known points, each subsampled to {CLOUD_SIZE} points with a fixed seed"
_ALIGNED = "after Sim(3) alignment of the corresponding points of the clip"


def _mean_distance(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"], alignment: Alignment) -> float:
    """Return the mean distance of corresponding points after alignment, in the unit of the truth; NaN without any."""
    aligned = transform_points(alignment.truth_from_prediction.to(predicted), predicted)
    return float((aligned - true).norm(dim=-1).double().mean())


def median_distance_to_first_camera(truth: Scene) -> float:
    """Compute the median distance of the known points from the first known camera.

    Args:
        truth: A scene without batch axes.

    Returns:
        Median distance in the unit of the scene; NaN without known points or cameras.
    """
    points = truth.points[truth.point_confidence > 0]
    registered = is_registered(truth).nonzero()[:, 0]
    if not (len(points) and len(registered)):
        return math.nan
    return float(np.median((points - truth.cameras.centers[registered[0]]).norm(dim=-1).cpu().numpy()))


def has_point_from_depth(prediction: Scene) -> Bool[Tensor, "time height width"]:
    """Find the pixels whose depth and camera determine a point.

    Args:
        prediction: Predicted scene without batch axes.

    Returns:
        True where the confidence of the depth is above 0 and the frame is registered.
    """
    return (prediction.depth_confidence > 0) & is_registered(prediction)[:, None, None]


def subsample_map(
    points: Float[Tensor, "time height width 3"], is_known: Bool[Tensor, "time height width"]
) -> Float[Tensor, "n 3"]:
    """Convert a point map to a point cloud.

    Args:
        points: Point map.
        is_known: Pixels with a known point.

    Returns:
        At most `CLOUD_SIZE` known points in float64.
    """
    return subsample(points.reshape(-1, 3), CLOUD_SIZE, SEED, is_known.reshape(-1)).double()


@scores(
    "Points",
    length("point_epe", f"Mean distance of corresponding points of the point maps {_ALIGNED}.", is_headline=True),
    Metric(
        "point_epe_relative",
        "ratio",
        "lower",
        "Mean distance of corresponding points (point_epe) divided by the median distance of true points from the "
        "first true camera.",
    ),
    length("accuracy", f"Mean distance from predicted points to the nearest true point {_ALIGNED}, {_CLOUDS}."),
    length("completeness", f"Mean distance from true points to the nearest predicted point {_ALIGNED}, {_CLOUDS}."),
    length("chamfer", f"Mean of accuracy and completeness, {_CLOUDS}."),
    share(
        "f_score",
        f"Harmonic mean of precision and recall: shares of predicted and of true points closer to the other cloud than "
        f"{F_SCORE_SHARE:.0%} of the median true depth (of the median distance from the first true camera if no depth "
        f"is known) {_ALIGNED}, {_CLOUDS}.",
    ),
    Metric(
        "normal_consistency",
        "ratio",
        "higher",
        f"Mean |cosine| between the normals of a point and of its nearest neighbor in the other cloud, averaged over "
        f"both directions, with normals from the 30 nearest points, {_CLOUDS}.",
    ),
    length(
        "points_from_depth_epe",
        "Mean distance of corresponding points, with predicted points from depth and cameras, after Sim(3) alignment "
        "of these points.",
    ),
    skips="pixels",
)
def point_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """Score the predicted point maps.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        The scores of `point_scores.metrics`, in their order; empty if the truth has no known points.
    """
    total = int((truth.point_confidence > 0).sum())
    if not total:
        return ()
    return (*_map_scores(prediction, truth, total), _score_from_depth(prediction, truth, total))


def _map_scores(prediction: Scene, truth: Scene, total: int) -> tuple[Score, ...]:
    predicted, true = (points.double() for points in corresponding_points(prediction, truth))
    if len(true) < MIN_POINTS:
        note = _too_few_points(len(true))
        return tuple(
            # Without predicted points, precision and recall are 0; all other metrics are undefined.
            Score(metric.name, 0.0, 0, total, ALIGNED_BY, note)
            if metric.name == "f_score"
            else undefined(metric.name, total, note, ALIGNED_BY)
            for metric in point_scores.metrics[:-1]
        )
    alignment = align_sim3(predicted, true)
    error = _mean_distance(predicted, true, alignment)
    epe = length_score(Score("point_epe", error, len(true), total, ALIGNED_BY), truth)
    return (epe, _relative_score(error, len(true), total, truth), *_cloud_scores(prediction, truth, alignment, total))


def _relative_score(error: float, count: int, total: int, truth: Scene) -> Score:
    distance = median_distance_to_first_camera(truth)
    if not distance > 0:
        return undefined("point_epe_relative", total, "the truth has no known camera", ALIGNED_BY)
    return Score("point_epe_relative", error / distance, count, total, ALIGNED_BY)


def _cloud_scores(prediction: Scene, truth: Scene, alignment: Alignment, total: int) -> tuple[Score, ...]:
    raw = subsample_map(prediction.points, prediction.point_confidence > 0)
    predicted = transform_points(alignment.truth_from_prediction.to(raw), raw)
    true = subsample_map(truth.points, truth.point_confidence > 0)
    distances = accuracy_and_completeness(predicted, true)
    size = len(predicted)
    return (
        length_score(Score("accuracy", distances.accuracy, size, total, ALIGNED_BY), truth),
        length_score(Score("completeness", distances.completeness, len(true), total, ALIGNED_BY), truth),
        length_score(Score("chamfer", distances.chamfer, len(true), total, ALIGNED_BY), truth),
        _f_score(predicted, true, total, truth),
        _normal_consistency(predicted, true, total),
    )


def _normal_consistency(predicted: Tensor, true: Tensor, total: int) -> Score:
    try:
        value = normal_consistency(predicted, true).mean
    except UserError as error:  # without Open3D, the other metrics are still scored
        return undefined("normal_consistency", total, str(error), ALIGNED_BY)
    return Score("normal_consistency", value, len(true), total, ALIGNED_BY)


def _f_score(predicted: Tensor, true: Tensor, total: int, truth: Scene) -> Score:
    depth = median_depth(truth)
    distance = depth if math.isfinite(depth) else median_distance_to_first_camera(truth)
    if not distance > 0:
        return undefined("f_score", total, "the truth has neither known depth nor a known camera", ALIGNED_BY)
    value = f_score(predicted, true, F_SCORE_SHARE * distance)
    return Score("f_score", value, len(true), total, ALIGNED_BY)


def _score_from_depth(prediction: Scene, truth: Scene, total: int) -> Score:
    is_known = has_point_from_depth(prediction) & (truth.point_confidence > 0)
    predicted, true = prediction.points_from_depth[is_known].double(), truth.points[is_known].double()
    if len(true) < MIN_POINTS:
        return undefined("points_from_depth_epe", total, _too_few_points(len(true)), ALIGNED_BY)
    error = _mean_distance(predicted, true, align_sim3(predicted, true))
    return length_score(Score("points_from_depth_epe", error, len(true), total, ALIGNED_BY), truth)


def _too_few_points(count: int) -> str:
    return f"{count} points are known in both prediction and truth; at least {MIN_POINTS} are needed"
