"""How far point maps are from the true ones, pixel by pixel and as clouds, after one similarity for the clip.

The similarity is fitted to all pixels whose points both scenes know (Umeyama 1991) and is the same for every metric;
the points that follow from depth and cameras have their own. Clouds are thinned to 20000 points each, by an order of
the pixels that is always the same: where both scenes know a pixel, both clouds keep it or neither does.
"""

import math

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.alignment.similarity import Alignment, align_sim3, corresponding_points
from recon4d.eval.metrics.cameras import median_depth
from recon4d.eval.metrics.point_clouds import (
    accuracy_and_completeness,
    f_score,
    normal_consistency,
    thinned,
)
from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.units import length_score
from recon4d.eval.pairing import is_registered
from recon4d.geometry import transform_points
from recon4d.records import Scene

CLOUD_SIZE = 20_000
SEED = 0
F_SCORE_SHARE = 0.05
"""The F-score's threshold, as a share of the median true depth."""
LEAST_POINTS = 3
"""Fewer corresponding points leave a turn free."""
ALIGNED_BY = "sim3"

_THINNED = f"on clouds of all known points thinned to {CLOUD_SIZE} each (fixed seed)"
_ALIGNED = "after the similarity that fits the corresponding points of the clip best"

POINT_METRICS: tuple[Metric, ...] = (
    Metric("point_epe", "m", "lower", f"Mean distance of corresponding points of the point maps {_ALIGNED}."),
    Metric(
        "point_epe_relative",
        "ratio",
        "lower",
        "The mean distance of corresponding points (point_epe) over the median distance of true points from the first "
        "true camera.",
    ),
    Metric(
        "accuracy",
        "m",
        "lower",
        f"Mean distance of predicted points from the nearest true point {_ALIGNED}, {_THINNED}.",
    ),
    Metric(
        "completeness",
        "m",
        "lower",
        f"Mean distance of true points from the nearest predicted point {_ALIGNED}, {_THINNED}.",
    ),
    Metric("chamfer", "m", "lower", f"Mean of accuracy and completeness, {_THINNED}."),
    Metric(
        "f_score",
        "share",
        "higher",
        f"Harmonic mean of the shares of predicted and of true points that are nearer to the other cloud than "
        f"{F_SCORE_SHARE:.0%} of the median true depth (without depth: of the median distance from the first true "
        f"camera) {_ALIGNED}, {_THINNED}.",
        worst=0.0,
    ),
    Metric(
        "normal_consistency",
        "ratio",
        "higher",
        f"Mean |cosine| between the normal of a point and that of its nearest neighbor in the other cloud, both ways, "
        f"normals from the 30 nearest points, {_THINNED}.",
    ),
    Metric(
        "points_from_depth_epe",
        "m",
        "lower",
        "Mean distance of corresponding points, the predicted ones from depth and camera, after the similarity that "
        "fits these best.",
    ),
)


def mean_distance(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"], alignment: Alignment) -> float:
    """Mean distance of corresponding points after `alignment`, in the truth's unit; NaN of no points."""
    moved = transform_points(alignment.truth_from_prediction.to(predicted), predicted)
    return float((moved - true).norm(dim=-1).double().mean())


def median_distance_to_first_camera(truth: Scene) -> float:
    """Median distance of the known true points from the first known true camera; NaN without points or cameras."""
    points = truth.points[truth.point_confidence > 0]
    placed = is_registered(truth).nonzero()[:, 0]
    if not (len(points) and len(placed)):
        return math.nan
    return float(np.median((points - truth.cameras.centers[placed[0]]).norm(dim=-1).cpu().numpy()))


def points_known_from_depth(prediction: Scene) -> Bool[Tensor, "time height width"]:
    """Where depth and camera give a point: the depth's confidence is above 0 and the frame is placed."""
    return (prediction.depth_confidence > 0) & is_registered(prediction)[:, None, None]


def thinned_cloud(
    points: Float[Tensor, "time height width 3"], known: Bool[Tensor, "time height width"]
) -> Float[Tensor, "n 3"]:
    """The known points of a map as a cloud (n, 3) of at most 20000 points, in float64."""
    return thinned(points.reshape(-1, 3), CLOUD_SIZE, SEED, known.reshape(-1)).double()


def point_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """The scores of `POINT_METRICS` of paired scenes, in their order; none where the truth knows no point."""
    total = int((truth.point_confidence > 0).sum())
    if not total:
        return ()
    return (*_map_scores(prediction, truth, total), _score_from_depth(prediction, truth, total))


def _map_scores(prediction: Scene, truth: Scene, total: int) -> tuple[Score, ...]:
    predicted, true = (points.double() for points in corresponding_points(prediction, truth))
    if len(true) < LEAST_POINTS:
        note = _too_few(len(true))
        return tuple(
            # What is not there finds nothing and is found by nothing: the F-score alone is a number then.
            Score(metric.name, 0.0, 0, total, ALIGNED_BY, note)
            if metric.name == "f_score"
            else undefined(metric.name, total, note, ALIGNED_BY)
            for metric in POINT_METRICS[:-1]
        )
    alignment = align_sim3(predicted, true)
    error = mean_distance(predicted, true, alignment)
    epe = length_score(Score("point_epe", error, len(true), total, ALIGNED_BY), truth)
    return (epe, _relative_score(error, len(true), total, truth), *_cloud_scores(prediction, truth, alignment, total))


def _relative_score(error: float, count: int, total: int, truth: Scene) -> Score:
    distance = median_distance_to_first_camera(truth)
    if not distance > 0:
        return undefined("point_epe_relative", total, "the first true camera is not known", ALIGNED_BY)
    return Score("point_epe_relative", error / distance, count, total, ALIGNED_BY)


def _cloud_scores(prediction: Scene, truth: Scene, alignment: Alignment, total: int) -> tuple[Score, ...]:
    raw = thinned_cloud(prediction.points, prediction.point_confidence > 0)
    predicted = transform_points(alignment.truth_from_prediction.to(raw), raw)
    true = thinned_cloud(truth.points, truth.point_confidence > 0)
    distances = accuracy_and_completeness(predicted, true)
    size = len(predicted)
    return (
        length_score(Score("accuracy", distances.accuracy, size, total, ALIGNED_BY), truth),
        length_score(Score("completeness", distances.completeness, len(true), total, ALIGNED_BY), truth),
        length_score(Score("chamfer", distances.chamfer, len(true), total, ALIGNED_BY), truth),
        _f_score(predicted, true, total, truth),
        Score("normal_consistency", normal_consistency(predicted, true).mean, len(true), total, ALIGNED_BY),
    )


def _f_score(predicted: Tensor, true: Tensor, total: int, truth: Scene) -> Score:
    depth = median_depth(truth)
    length = depth if math.isfinite(depth) else median_distance_to_first_camera(truth)
    if not length > 0:
        return undefined("f_score", total, "neither depth nor a camera of the truth is known", ALIGNED_BY)
    value = f_score(predicted, true, F_SCORE_SHARE * length)
    return Score("f_score", value, len(true), total, ALIGNED_BY)


def _score_from_depth(prediction: Scene, truth: Scene, total: int) -> Score:
    known = points_known_from_depth(prediction) & (truth.point_confidence > 0)
    predicted, true = prediction.points_from_depth[known].double(), truth.points[known].double()
    if len(true) < LEAST_POINTS:
        return undefined("points_from_depth_epe", total, _too_few(len(true)), ALIGNED_BY)
    error = mean_distance(predicted, true, align_sim3(predicted, true))
    return length_score(Score("points_from_depth_epe", error, len(true), total, ALIGNED_BY), truth)


def _too_few(count: int) -> str:
    return f"{count} points are known in both prediction and truth; wanted at least {LEAST_POINTS}"
