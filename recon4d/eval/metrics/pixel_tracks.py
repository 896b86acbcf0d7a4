"""Tracks as they are seen in the pictures: TAP-Vid (Doersch et al. 2022), and CoTracker's and PIPs++'s survival.

Positions are projected by each scene's own cameras and rescaled as if every picture had 256 x 256 pixels. The frames
after a track's anchor count, as in TAP-Vid's query mode "first". Nothing is aligned: pictures have no scale to choose.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.track_pairs import TrackPairs, in_pictures, track_pairs
from recon4d.eval.metrics.tracks import (
    NO_QUERIES,
    NO_TRACKS,
    jaccard,
    survival_shares,
)
from recon4d.records import Scene

SIDE = 256
PIXELS = (1, 2, 4, 8, 16)

_OF_TRACKS = f"mean over tracks of the share of later frames until the error, in a picture of {SIDE} x {SIDE}, is above"
DELTA_AVG = Metric(
    "delta_avg",
    "share",
    "higher",
    f"mean over 1, 2, 4, 8 and 16 pixels of {SIDE} x {SIDE} of the share of truly visible points nearer than that",
    worst=0.0,
)
OCCLUSION_ACCURACY = Metric(
    "occlusion_accuracy", "share", "higher", "share of points after the anchor rightly said seen or hidden", worst=0.0
)
AVERAGE_JACCARD = Metric(
    "average_jaccard", "share", "higher", f"mean Jaccard at 1, 2, 4, 8 and 16 pixels of {SIDE} x {SIDE}", worst=0.0
)
PIXEL_SURVIVAL = Metric("pixel_survival", "share", "higher", f"{_OF_TRACKS} 50 pixels (CoTracker)", worst=0.0)
PIXEL_SURVIVAL_16 = Metric("pixel_survival_16", "share", "higher", f"{_OF_TRACKS} 16 pixels (PIPs++)", worst=0.0)
MEDIAN_TRAJECTORY_ERROR = Metric(
    "median_trajectory_error",
    "pixel",
    "lower",
    f"median error of found points in a picture of {SIDE} x {SIDE} (PIPs++)",
)
PIXEL_TRACK_METRICS = (
    DELTA_AVG,
    OCCLUSION_ACCURACY,
    AVERAGE_JACCARD,
    PIXEL_SURVIVAL,
    PIXEL_SURVIVAL_16,
    MEDIAN_TRAJECTORY_ERROR,
)


def pixel_track_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """The scores of `PIXEL_TRACK_METRICS` for `paired` scenes; none where the truth has no tracks.

    Points that are not found, or behind their camera, or in a frame that was not placed, are wrong in shares and left
    out of the median. True points behind the camera have no place in the picture: only their being hidden counts.
    """
    if truth.tracks is None:
        return ()
    pairs = track_pairs(prediction, truth)
    errors, has_place = pixel_errors(pairs, truth.size)
    counted = pairs.believed & after_anchor(pairs.anchors, len(pairs.true))
    visible = counted & has_place & pairs.true_visibility
    shown = counted & has_place
    scores = (
        *_visible_scores(pairs, errors, counted, visible),
        *_error_scores(pairs, errors, shown),
    )
    if prediction.tracks is not None:
        return scores
    return tuple(undefined(score.metric, score.total, NO_TRACKS) for score in scores)


def pixel_errors(
    pairs: TrackPairs, size: tuple[int, int]
) -> tuple[Float[Tensor, "time query"], Bool[Tensor, "time query"]]:
    """Distances in a picture of `size` (height, width) rescaled to 256 x 256, and where the truth has a place in it.

    NaN where either point is unknown, or not before its camera.
    """
    to_side = pairs.true.new_tensor([SIDE / size[1], SIDE / size[0]])
    predicted = in_pictures(pairs.predicted, pairs.predicted_cameras) * to_side
    true = in_pictures(pairs.true, pairs.true_cameras) * to_side
    return (predicted - true).norm(dim=-1), true.isfinite().all(dim=-1)


def after_anchor(anchors: Int[Tensor, "query"], num_frames: int) -> Bool[Tensor, "time query"]:
    """The frames that TAP-Vid evaluates in query mode "first": those after the query's own."""
    return torch.arange(num_frames, device=anchors.device)[:, None] > anchors


def beside_anchor(anchors: Int[Tensor, "query"], num_frames: int) -> Bool[Tensor, "time query"]:
    """The frames that TAP-Vid evaluates in query mode "strided": all but the query's own."""
    return torch.arange(num_frames, device=anchors.device)[:, None] != anchors


def share_nearer(
    errors: Float[Tensor, "time query"], visible: Bool[Tensor, "time query"], thresholds: Sequence[float] = PIXELS
) -> float:
    """TAP-Vid's delta_avg: the mean over `thresholds` of the share of visible points with an error below it."""
    errors = errors[visible]
    return sum(float((errors < threshold).double().mean()) for threshold in thresholds) / len(thresholds)


def average_jaccard(
    errors: Float[Tensor, "time query"],
    predicted_visible: Bool[Tensor, "time query"],
    true_visible: Bool[Tensor, "time query"],
    counted: Bool[Tensor, "time query"],
) -> float:
    """TAP-Vid's AJ: the mean of the Jaccard with errors below 1, 2, 4, 8 and 16 pixels."""
    values = [jaccard(errors < pixels, predicted_visible, true_visible, counted) for pixels in PIXELS]
    return sum(values) / len(values)


def _visible_scores(pairs: TrackPairs, errors: Tensor, counted: Tensor, visible: Tensor) -> tuple[Score, ...]:
    said = pairs.predicted_visibility > 0.5
    is_right = pairs.found & (said == pairs.true_visibility)
    total, num_visible = int(counted.sum()), int(visible.sum())
    if not total:
        metrics = (DELTA_AVG, OCCLUSION_ACCURACY, AVERAGE_JACCARD)
        return tuple(undefined(metric.name, 0, _why_nothing(pairs)) for metric in metrics)
    accuracy = Score(OCCLUSION_ACCURACY.name, float(is_right[counted].double().mean()), total, total)
    if not num_visible:
        note = "no true track is visible after its anchor"
        return undefined(DELTA_AVG.name, 0, note), accuracy, undefined(AVERAGE_JACCARD.name, 0, note)
    return (
        Score(DELTA_AVG.name, share_nearer(errors, visible), num_visible, num_visible),
        accuracy,
        Score(AVERAGE_JACCARD.name, average_jaccard(errors, said, visible, counted), num_visible, num_visible),
    )


def _error_scores(pairs: TrackPairs, errors: Tensor, shown: Tensor) -> tuple[Score, ...]:
    total = int(shown.sum())
    if not total:
        metrics = (PIXEL_SURVIVAL, PIXEL_SURVIVAL_16, MEDIAN_TRAJECTORY_ERROR)
        return tuple(undefined(metric.name, 0, _why_nothing(pairs)) for metric in metrics)
    known = errors[shown & ~errors.isnan()]
    if len(known):
        median = Score(MEDIAN_TRAJECTORY_ERROR.name, float(known.median()), len(known), total)
    else:
        median = undefined(MEDIAN_TRAJECTORY_ERROR.name, total, "no predicted point falls into a picture")
    return (
        _survival(PIXEL_SURVIVAL, pairs, errors <= 50, shown),
        _survival(PIXEL_SURVIVAL_16, pairs, errors <= 16, shown),
        median,
    )


def _survival(metric: Metric, pairs: TrackPairs, survives: Tensor, shown: Tensor) -> Score:
    shares = survival_shares(survives, pairs.frames_from_anchor, shown)
    shares = shares[~shares.isnan()]
    return Score(metric.name, float(shares.mean()), len(shares), len(pairs.anchors))


def _why_nothing(pairs: TrackPairs) -> str:
    return "no true track is known after its anchor" if len(pairs.anchors) else NO_QUERIES
