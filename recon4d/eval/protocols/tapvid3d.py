"""TAPVid-3D (Koppula et al. 2024): tracks in the camera frame of each time, with thresholds proportional to depth.

A threshold of k pixels is the width of k pixels at the depth of the true point, in an image whose shorter side has 256
pixels. All frames of all tracks count, including the anchors.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.eval.metrics.score import Metric, Score, scores, share, undefined
from recon4d.eval.metrics.track_pairs import TrackPairs, points_in_cameras, track_pairs
from recon4d.eval.metrics.tracks import NO_QUERIES, NO_TRACKS, NO_UNIT, jaccard
from recon4d.eval.metrics.units import meters_of
from recon4d.eval.protocols.worldtrack import median_of_columns
from recon4d.records import Scene

IMAGE_SIDE = 256
"""Shorter side of the image that defines the width of a pixel, in pixels (TAPVid-3D)."""
PIXELS = (1, 2, 4, 8, 16)
"""Thresholds in pixels (TAPVid-3D)."""
METERS = (0.01, 0.04, 0.16, 0.64, 2.56)
"""Fixed thresholds in meters (TAPVid-3D)."""
MIN_DEPTH = 1e-12
"""Lower bound of depths in the scale per trajectory, in the unit of each scene."""
MIN_NORM = 1e-6
"""Lower bound of norms in the median scale, in the unit of each scene."""

_WIDTHS = "the widths of 1, 2, 4, 8 and 16 pixels at the depth of the point"
_LENGTHS = "0.01, 0.04, 0.16, 0.64 and 2.56 m"


def _pair_of_metrics(suffix: str, thresholds: str, scale: str) -> tuple[Metric, Metric]:
    """Define APD and AJ for one alignment and one kind of threshold."""
    points = f"points with an error below {thresholds}, averaged over the thresholds, {scale}"
    return (
        share(f"tapvid3d_apd{suffix}", f"TAPVid-3D: share of visible true {points}."),
        share(f"tapvid3d_aj{suffix}", f"TAPVid-3D: Jaccard index of visible {points}."),
    )


MEDIAN = _pair_of_metrics("", _WIDTHS, "after one median scale over points visible in both scenes")
PER_TRAJECTORY = _pair_of_metrics(
    "_per_trajectory", _WIDTHS, "after scaling each track to the true depth at its anchor"
)
UNSCALED = _pair_of_metrics("_none", _WIDTHS, "in the metric scale of the prediction")
FIXED = _pair_of_metrics("_fixed", _LENGTHS, "after one median scale over points visible in both scenes")
OCCLUSION = share(
    "tapvid3d_oa",
    "TAPVid-3D: share of points whose visibility (threshold 0.5) is correct. Missing points count as errors.",
)


@scores("Published protocols", *(*MEDIAN, OCCLUSION, *PER_TRAJECTORY, *UNSCALED, *FIXED), protocol="tapvid3d")
def tapvid3d_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """Score the predicted tracks by the TAPVid-3D protocol.

    Missing points and points in unregistered frames count as errors. If no visible point is predicted to be visible,
    there is no median scale and all points count as errors.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        The scores of `tapvid3d_scores.metrics`, in their order; empty if the truth has no tracks.
    """
    if truth.tracks is None:
        return ()
    pairs = track_pairs(prediction, truth)
    if not len(pairs.anchors):
        return tuple(undefined(metric.name, 0, NO_QUERIES) for metric in tapvid3d_scores.metrics)
    found = (*_pixel_scores(pairs, prediction, truth), *_fixed_scores(pairs, truth))
    if prediction.tracks is not None:
        return found
    return tuple(undefined(score.metric, score.total, NO_TRACKS) for score in found)


def median_scale(
    predicted: Float[Tensor, "time query 3"],
    true: Float[Tensor, "time query 3"],
    is_counted: Bool[Tensor, "time query"],
) -> Float[Tensor, ""]:
    """Compute the scale s = median ||G|| / median ||P||, with norms of at least 1e-6.

    Args:
        predicted: Predicted points P in the camera frames.
        true: True points G in the camera frames.
        is_counted: Points to use: those that are visible in both scenes.

    Returns:
        Scale, a scalar; NaN without points.
    """
    norms = [points.norm(dim=-1).clamp(min=MIN_NORM)[is_counted][:, None] for points in (true, predicted)]
    if not len(norms[0]):
        return torch.full((), torch.nan).to(true)
    true_median, predicted_median = (median_of_columns(column, torch.ones_like(column) > 0)[0] for column in norms)
    return true_median / predicted_median


def depth_scales(
    predicted: Float[Tensor, "time query 3"], true: Float[Tensor, "time query 3"], anchors: Int[Tensor, "query"]
) -> Float[Tensor, "query"]:
    """Compute the scale s = z_G / z_P of each track at its anchor, with depths of at least 1e-12 ("per_trajectory").

    Args:
        predicted: Predicted points P in the camera frames.
        true: True points G in the camera frames.
        anchors: Index of the anchor frame of each query.

    Returns:
        Scale of each track.
    """
    queries = torch.arange(len(anchors), device=anchors.device)
    return true[anchors, queries, 2].clamp(min=MIN_DEPTH) / predicted[anchors, queries, 2].clamp(min=MIN_DEPTH)


def pixel_widths(
    true: Float[Tensor, "time query 3"], intrinsics: Float[Tensor, "time 3 3"], size: tuple[int, int]
) -> Float[Tensor, "time query"]:
    """Compute the width of a pixel at the depth of each true point, z / sqrt(fx fy).

    Args:
        true: True points in the camera frames.
        intrinsics: True intrinsics of each frame, in pixels of the maps.
        size: Height and width of the maps in pixels; the intrinsics are scaled to a shorter side of 256.

    Returns:
        Widths in the unit of the truth.
    """
    focal = (intrinsics[:, 0, 0] * intrinsics[:, 1, 1]).sqrt() * (IMAGE_SIDE / min(size))
    return true[..., 2] / focal[:, None]


def apd_and_aj(
    errors: Float[Tensor, "time query"],
    thresholds: Sequence[Tensor | float],
    predicted_visibility: Bool[Tensor, "time query"],
    true_visibility: Bool[Tensor, "time query"],
    is_counted: Bool[Tensor, "time query"],
) -> tuple[float, float]:
    """Compute the average share of visible points within thresholds (APD) and the average Jaccard index (AJ).

    Args:
        errors: Errors; NaN is never below a threshold.
        thresholds: Thresholds in the unit of the errors, scalars or of shape (time, query).
        predicted_visibility: Points that are predicted to be visible.
        true_visibility: True points that are visible.
        is_counted: Points to evaluate.

    Returns:
        APD and AJ, both averaged over the thresholds.
    """
    within = [errors < threshold for threshold in thresholds]
    is_scored = is_counted & true_visibility
    shares = [float(is_within[is_scored].double().mean()) for is_within in within]
    jaccards = [jaccard(is_within, predicted_visibility, true_visibility, is_counted) for is_within in within]
    return sum(shares) / len(shares), sum(jaccards) / len(jaccards)


def _pixel_scores(pairs: TrackPairs, prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    predicted, true = _camera_tracks(pairs)
    widths = pixel_widths(true, pairs.true_cameras.intrinsics, truth.size)
    thresholds = [widths * pixels for pixels in PIXELS]
    by_median = predicted * _median_scale(pairs, predicted, true)
    by_depth = predicted * depth_scales(predicted, true, pairs.anchors)[:, None]
    predicted_meters, true_meters = meters_of(prediction), meters_of(truth)
    if predicted_meters and true_meters:
        unscaled = _scores(UNSCALED, pairs, predicted * (predicted_meters / true_meters) - true, thresholds, "none")
    else:
        note = "the prediction's unit is not known in meters" if true_meters else NO_UNIT
        unscaled = tuple(undefined(metric.name, _num_positions(pairs), note) for metric in UNSCALED)
    predicted_visibility = pairs.predicted_visibility > 0.5
    is_correct = (pairs.is_found & (predicted_visibility == pairs.true_visibility))[pairs.is_known]
    return (
        *_scores(MEDIAN, pairs, by_median - true, thresholds, "median of visible"),
        Score(OCCLUSION.name, float(is_correct.double().mean()), len(is_correct), len(is_correct)),
        *_scores(PER_TRAJECTORY, pairs, by_depth - true, thresholds, "depth at each anchor"),
        *unscaled,
    )


def _fixed_scores(pairs: TrackPairs, truth: Scene) -> tuple[Score, ...]:
    meters = meters_of(truth)
    if not meters:
        return tuple(undefined(metric.name, _num_positions(pairs), NO_UNIT, "median of visible") for metric in FIXED)
    predicted, true = _camera_tracks(pairs)
    by_median = predicted * _median_scale(pairs, predicted, true)
    return _scores(FIXED, pairs, (by_median - true) * meters, METERS, "median of visible")


def _camera_tracks(pairs: TrackPairs) -> tuple[Tensor, Tensor]:
    """Return predicted and true points in the camera frames of their own scene."""
    return points_in_cameras(pairs.predicted, pairs.predicted_cameras), points_in_cameras(
        pairs.true, pairs.true_cameras
    )


def _median_scale(pairs: TrackPairs, predicted: Tensor, true: Tensor) -> Tensor:
    """Return the median scale over known points that are visible in both scenes."""
    is_counted = (pairs.predicted_visibility > 0.5) & pairs.true_visibility & pairs.is_known
    return median_scale(predicted, true, is_counted & predicted.isfinite().all(dim=-1))


def _scores(
    metrics: tuple[Metric, Metric], pairs: TrackPairs, offsets: Tensor, thresholds: Sequence[Tensor | float], scale: str
) -> tuple[Score, ...]:
    total = _num_positions(pairs)
    if not total:
        return tuple(undefined(metric.name, 0, "no true track is visible", scale) for metric in metrics)
    predicted_visibility = pairs.predicted_visibility > 0.5
    values = apd_and_aj(offsets.norm(dim=-1), thresholds, predicted_visibility, pairs.true_visibility, pairs.is_known)
    return tuple(Score(metric.name, value, total, total, scale) for metric, value in zip(metrics, values, strict=True))


def _num_positions(pairs: TrackPairs) -> int:
    return int((pairs.is_known & pairs.true_visibility).sum())
