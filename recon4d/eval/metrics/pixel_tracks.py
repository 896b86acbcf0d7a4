"""Track metrics in the image: TAP-Vid (Doersch et al. 2022), and the survival of CoTracker and PIPs++.

Points are projected with the cameras of their own scene and scaled to an image of 256 x 256 pixels. As in the query
mode "first" of TAP-Vid, only frames after the anchor of a track count. No alignment is needed, because projections do
not depend on the scale of the world.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.eval.metrics.score import Metric, Score, scores, share, undefined
from recon4d.eval.metrics.track_pairs import TrackPairs, project_into_frames, track_pairs
from recon4d.eval.metrics.tracks import NO_QUERIES, NO_TRACKS, jaccard, survival_shares
from recon4d.records import Scene

IMAGE_SIDE = 256
"""Side of the image to which pixel positions are scaled, in pixels (TAP-Vid)."""
PIXELS = (1, 2, 4, 8, 16)
"""Thresholds of errors, in pixels of the scaled image (TAP-Vid)."""

_IMAGE = f"in an image of {IMAGE_SIDE} x {IMAGE_SIDE} pixels"
_SURVIVAL = f"Mean over tracks of the share of later frames before the error, {_IMAGE}, first exceeds"
DELTA_AVG = share(
    "delta_avg",
    f"Share of visible true points after the anchor with an error below 1, 2, 4, 8 and 16 pixels {_IMAGE}, averaged "
    "over the thresholds. Missing points count as errors (TAP-Vid).",
)
OCCLUSION_ACCURACY = share(
    "occlusion_accuracy",
    "Share of points after the anchor whose visibility (threshold 0.5) is correct. Missing points count as errors "
    "(TAP-Vid).",
)
AVERAGE_JACCARD = share(
    "average_jaccard",
    f"Jaccard index of visible points with an error below 1, 2, 4, 8 and 16 pixels {_IMAGE}, averaged over the "
    "thresholds (TAP-Vid).",
)
PIXEL_SURVIVAL = share("pixel_survival", f"{_SURVIVAL} 50 pixels (CoTracker).")
PIXEL_SURVIVAL_16 = share("pixel_survival_16", f"{_SURVIVAL} 16 pixels (PIPs++).")
MEDIAN_TRAJECTORY_ERROR = Metric(
    "median_trajectory_error",
    "pixel",
    "lower",
    f"Median error of the predicted points after the anchor {_IMAGE} (PIPs++).",
)


@scores(
    "Tracks", DELTA_AVG, OCCLUSION_ACCURACY, AVERAGE_JACCARD, PIXEL_SURVIVAL, PIXEL_SURVIVAL_16, MEDIAN_TRAJECTORY_ERROR
)
def pixel_track_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """Score the predicted tracks after projection into the frames.

    Missing points, points behind their camera and points in unregistered frames count as errors in accuracy metrics and
    are excluded from the median error. A true point behind its camera has no position in the image, so only its
    visibility counts.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        The scores of `pixel_track_scores.metrics`, in their order; empty if the truth has no tracks.
    """
    if truth.tracks is None:
        return ()
    pairs = track_pairs(prediction, truth)
    errors, has_position = pixel_errors(pairs, truth.size)
    is_counted = pairs.is_known & is_after_anchor(pairs.anchors, len(pairs.true))
    has_error = is_counted & has_position
    found = (
        *_visibility_scores(pairs, errors, is_counted, has_error & pairs.true_visibility),
        *_error_scores(pairs, errors, has_error),
    )
    if prediction.tracks is not None:
        return found
    return tuple(undefined(score.metric, score.total, NO_TRACKS) for score in found)


def pixel_errors(
    pairs: TrackPairs, size: tuple[int, int]
) -> tuple[Float[Tensor, "time query"], Bool[Tensor, "time query"]]:
    """Compute the distances between projected points, scaled to an image of 256 x 256 pixels.

    Args:
        pairs: True and predicted tracks.
        size: Height and width of the maps that the intrinsics refer to.

    Returns:
        Errors in pixels, which are NaN where either point is unknown or not in front of its camera, and a mask of the
        true points in front of their camera.
    """
    scale = pairs.true.new_tensor([IMAGE_SIDE / size[1], IMAGE_SIDE / size[0]])
    predicted = project_into_frames(pairs.predicted, pairs.predicted_cameras) * scale
    true = project_into_frames(pairs.true, pairs.true_cameras) * scale
    return (predicted - true).norm(dim=-1), true.isfinite().all(dim=-1)


def is_after_anchor(anchors: Int[Tensor, "query"], num_frames: int) -> Bool[Tensor, "time query"]:
    """Find the frames that TAP-Vid evaluates in query mode "first".

    Args:
        anchors: Index of the anchor frame of each query.
        num_frames: Number of frames.

    Returns:
        True in the frames after the anchor of a query.
    """
    return torch.arange(num_frames, device=anchors.device)[:, None] > anchors


def is_off_anchor(anchors: Int[Tensor, "query"], num_frames: int) -> Bool[Tensor, "time query"]:
    """Find the frames that TAP-Vid evaluates in query mode "strided".

    Args:
        anchors: Index of the anchor frame of each query.
        num_frames: Number of frames.

    Returns:
        True in all frames except the anchor of a query.
    """
    return torch.arange(num_frames, device=anchors.device)[:, None] != anchors


def mean_share_below(
    errors: Float[Tensor, "time query"], is_counted: Bool[Tensor, "time query"], thresholds: Sequence[float] = PIXELS
) -> float:
    """Compute the share of points with an error below each threshold (delta_avg of TAP-Vid).

    Args:
        errors: Errors; NaN is never below a threshold.
        is_counted: Points to average over, at least one: for TAP-Vid the visible true points.
        thresholds: Thresholds in the unit of the errors.

    Returns:
        Mean of the shares over the thresholds.
    """
    errors = errors[is_counted]
    return sum(float((errors < threshold).double().mean()) for threshold in thresholds) / len(thresholds)


def average_jaccard(
    errors: Float[Tensor, "time query"],
    predicted_visibility: Bool[Tensor, "time query"],
    true_visibility: Bool[Tensor, "time query"],
    is_counted: Bool[Tensor, "time query"],
) -> float:
    """Compute the average Jaccard index of TAP-Vid.

    Args:
        errors: Errors in pixels of the scaled image; NaN if missing.
        predicted_visibility: Points that are predicted to be visible.
        true_visibility: True points that are visible.
        is_counted: Points to evaluate.

    Returns:
        Mean of the Jaccard index over errors below 1, 2, 4, 8 and 16 pixels.
    """
    values = [jaccard(errors < pixels, predicted_visibility, true_visibility, is_counted) for pixels in PIXELS]
    return sum(values) / len(values)


def _visibility_scores(
    pairs: TrackPairs, errors: Tensor, is_counted: Tensor, true_visibility: Tensor
) -> tuple[Score, ...]:
    """Return delta_avg, occlusion accuracy and average Jaccard."""
    predicted_visibility = pairs.predicted_visibility > 0.5
    is_correct = pairs.is_found & (predicted_visibility == pairs.true_visibility)
    total, num_positions = int(is_counted.sum()), int(true_visibility.sum())
    if not total:
        metrics = (DELTA_AVG, OCCLUSION_ACCURACY, AVERAGE_JACCARD)
        return tuple(undefined(metric.name, 0, _reason_for_no_points(pairs)) for metric in metrics)
    accuracy = Score(OCCLUSION_ACCURACY.name, float(is_correct[is_counted].double().mean()), total, total)
    if not num_positions:
        note = "no true track is visible after its anchor"
        return undefined(DELTA_AVG.name, 0, note), accuracy, undefined(AVERAGE_JACCARD.name, 0, note)
    value = average_jaccard(errors, predicted_visibility, true_visibility, is_counted)
    return (
        Score(DELTA_AVG.name, mean_share_below(errors, true_visibility), num_positions, num_positions),
        accuracy,
        Score(AVERAGE_JACCARD.name, value, num_positions, num_positions),
    )


def _error_scores(pairs: TrackPairs, errors: Tensor, has_error: Tensor) -> tuple[Score, ...]:
    """Return both survival rates and the median trajectory error."""
    total = int(has_error.sum())
    if not total:
        metrics = (PIXEL_SURVIVAL, PIXEL_SURVIVAL_16, MEDIAN_TRAJECTORY_ERROR)
        return tuple(undefined(metric.name, 0, _reason_for_no_points(pairs)) for metric in metrics)
    known = errors[has_error & ~errors.isnan()]
    if len(known):
        median = Score(MEDIAN_TRAJECTORY_ERROR.name, float(known.median()), len(known), total)
    else:
        median = undefined(MEDIAN_TRAJECTORY_ERROR.name, total, "no predicted point is in front of its camera")
    return (
        _survival(PIXEL_SURVIVAL, pairs, errors <= 50, has_error),
        _survival(PIXEL_SURVIVAL_16, pairs, errors <= 16, has_error),
        median,
    )


def _survival(metric: Metric, pairs: TrackPairs, survives: Tensor, has_error: Tensor) -> Score:
    shares = survival_shares(survives, pairs.frames_from_anchor, has_error)
    shares = shares[~shares.isnan()]
    return Score(metric.name, float(shares.mean()), len(shares), len(pairs.anchors))


def _reason_for_no_points(pairs: TrackPairs) -> str:
    return "no true track is known after its anchor" if len(pairs.anchors) else NO_QUERIES
