"""TAPVid-3D (Koppula et al. 2024): tracks in each frame's camera, within thresholds that grow with depth.

A threshold of k pixels is the width of k pixels, of a picture whose smaller side has 256, at the true point's depth.
All frames of all tracks count, those of the anchors included.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.track_pairs import TrackPairs, in_cameras, track_pairs
from recon4d.eval.metrics.tracks import (
    NO_QUERIES,
    NO_TRACKS,
    NO_UNIT,
    jaccard,
)
from recon4d.eval.metrics.units import meters_of
from recon4d.eval.protocols.worldtrack import median_of_columns
from recon4d.records import Scene

SIDE = 256
PIXELS = (1, 2, 4, 8, 16)
METERS = (0.01, 0.04, 0.16, 0.64, 2.56)
MIN_DEPTH = 1e-12
MIN_NORM = 1e-6

_WIDTHS = "the widths of 1, 2, 4, 8 and 16 pixels at the point's depth"
_LENGTHS = "0.01, 0.04, 0.16, 0.64 and 2.56 m"


def _pair_of_metrics(suffix: str, thresholds: str, scale: str) -> tuple[Metric, Metric]:
    """APD and AJ under one scale and one kind of threshold."""
    share = f"TAPVid-3D: mean over {thresholds} of the share of visible points nearer than that, {scale}"
    return (
        Metric(f"tapvid3d_apd{suffix}", "share", "higher", share, worst=0.0),
        Metric(
            f"tapvid3d_aj{suffix}", "share", "higher", f"TAPVid-3D: mean Jaccard at {thresholds}, {scale}", worst=0.0
        ),
    )


MEDIAN = _pair_of_metrics("", _WIDTHS, "after the ratio of median norms of points visible in both")
PER_TRAJECTORY = _pair_of_metrics("_per_trajectory", _WIDTHS, "each track scaled to the true depth at its anchor")
UNSCALED = _pair_of_metrics("_none", _WIDTHS, "in the prediction's own meters")
FIXED = _pair_of_metrics("_fixed", _LENGTHS, "after the ratio of median norms of points visible in both")
OCCLUSION = Metric(
    "tapvid3d_oa", "share", "higher", "TAPVid-3D: share of all points rightly said seen or hidden", worst=0.0
)
TAPVID3D_METRICS = (*MEDIAN, OCCLUSION, *PER_TRAJECTORY, *UNSCALED, *FIXED)


def tapvid3d_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """The scores of `TAPVID3D_METRICS` for `paired` scenes; none where the truth has no tracks.

    Points that are not found, and those in frames that were not placed, are wrong. Where no point is said to be visible
    that is, no scale is known and all are wrong.
    """
    if truth.tracks is None:
        return ()
    pairs = track_pairs(prediction, truth)
    if not len(pairs.anchors):
        return tuple(undefined(metric.name, 0, NO_QUERIES) for metric in TAPVID3D_METRICS)
    scores = (*_pixel_scores(pairs, prediction, truth), *_fixed_scores(pairs, truth))
    if prediction.tracks is not None:
        return scores
    return tuple(undefined(score.metric, score.total, NO_TRACKS) for score in scores)


def median_scale(
    predicted: Float[Tensor, "time query 3"],
    true: Float[Tensor, "time query 3"],
    visible_in_both: Bool[Tensor, "time query"],
) -> Float[Tensor, ""]:
    """s = median ||G|| / median ||P|| over points visible in both, norms at least 1e-6; NaN where there are none."""
    norms = [points.norm(dim=-1).clamp(min=MIN_NORM)[visible_in_both][:, None] for points in (true, predicted)]
    if not len(norms[0]):
        return torch.full((), torch.nan).to(true)
    true_median, predicted_median = (median_of_columns(column, torch.ones_like(column) > 0)[0] for column in norms)
    return true_median / predicted_median


def depth_scales(
    predicted: Float[Tensor, "time query 3"], true: Float[Tensor, "time query 3"], anchors: Tensor
) -> Float[Tensor, "query"]:
    """s = z_G / z_P of each track at its anchor, depths at least 1e-12 ("per_trajectory")."""
    queries = torch.arange(len(anchors), device=anchors.device)
    return true[anchors, queries, 2].clamp(min=MIN_DEPTH) / predicted[anchors, queries, 2].clamp(min=MIN_DEPTH)


def pixel_widths(
    true: Float[Tensor, "time query 3"], intrinsics: Float[Tensor, "time 3 3"], size: tuple[int, int]
) -> Float[Tensor, "time query"]:
    """How wide a pixel is at each true point in its camera: z / sqrt(fx fy), the picture's smaller side being 256."""
    focal = (intrinsics[:, 0, 0] * intrinsics[:, 1, 1]).sqrt() * (SIDE / min(size))
    return true[..., 2] / focal[:, None]


def apd_and_aj(
    errors: Float[Tensor, "time query"],
    thresholds: Sequence[Tensor | float],
    predicted_visible: Bool[Tensor, "time query"],
    true_visible: Bool[Tensor, "time query"],
    counted: Bool[Tensor, "time query"],
) -> tuple[float, float]:
    """The share of visible points with errors below a threshold, and the Jaccard, both averaged over the thresholds."""
    within = [errors < threshold for threshold in thresholds]
    visible = counted & true_visible
    shares = [float(is_within[visible].double().mean()) for is_within in within]
    jaccards = [jaccard(is_within, predicted_visible, true_visible, counted) for is_within in within]
    return sum(shares) / len(shares), sum(jaccards) / len(jaccards)


def _pixel_scores(pairs: TrackPairs, prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    predicted, true = _camera_tracks(pairs)
    widths = pixel_widths(true, pairs.true_cameras.intrinsics, truth.size)
    thresholds = [widths * pixels for pixels in PIXELS]
    by_median = predicted * _scale_of_visible(pairs, predicted, true)
    by_depth = predicted * depth_scales(predicted, true, pairs.anchors)[:, None]
    predicted_meters, true_meters = meters_of(prediction), meters_of(truth)
    if predicted_meters and true_meters:
        unscaled = _scores(UNSCALED, pairs, predicted * (predicted_meters / true_meters) - true, thresholds, "none")
    else:
        note = "the prediction's unit is not known in meters" if true_meters else NO_UNIT
        unscaled = tuple(undefined(metric.name, _num_visible(pairs), note) for metric in UNSCALED)
    said = pairs.predicted_visibility > 0.5
    is_right = (pairs.found & (said == pairs.true_visibility))[pairs.believed]
    return (
        *_scores(MEDIAN, pairs, by_median - true, thresholds, "median of visible"),
        Score(OCCLUSION.name, float(is_right.double().mean()), len(is_right), len(is_right)),
        *_scores(PER_TRAJECTORY, pairs, by_depth - true, thresholds, "depth at each anchor"),
        *unscaled,
    )


def _fixed_scores(pairs: TrackPairs, truth: Scene) -> tuple[Score, ...]:
    meters = meters_of(truth)
    if not meters:
        return tuple(undefined(metric.name, _num_visible(pairs), NO_UNIT, "median of visible") for metric in FIXED)
    predicted, true = _camera_tracks(pairs)
    by_median = predicted * _scale_of_visible(pairs, predicted, true)
    return _scores(FIXED, pairs, (by_median - true) * meters, METERS, "median of visible")


def _camera_tracks(pairs: TrackPairs) -> tuple[Tensor, Tensor]:
    """Predicted and true points, each in its own scene's cameras."""
    return in_cameras(pairs.predicted, pairs.predicted_cameras), in_cameras(pairs.true, pairs.true_cameras)


def _scale_of_visible(pairs: TrackPairs, predicted: Tensor, true: Tensor) -> Tensor:
    in_both = (pairs.predicted_visibility > 0.5) & pairs.true_visibility & pairs.believed
    return median_scale(predicted, true, in_both & predicted.isfinite().all(dim=-1))


def _scores(
    metrics: tuple[Metric, Metric], pairs: TrackPairs, offsets: Tensor, thresholds: Sequence[Tensor | float], scale: str
) -> tuple[Score, ...]:
    total = _num_visible(pairs)
    if not total:
        return tuple(undefined(metric.name, 0, "no true track is visible", scale) for metric in metrics)
    said = pairs.predicted_visibility > 0.5
    values = apd_and_aj(offsets.norm(dim=-1), thresholds, said, pairs.true_visibility, pairs.believed)
    return tuple(Score(metric.name, value, total, total, scale) for metric, value in zip(metrics, values, strict=True))


def _num_visible(pairs: TrackPairs) -> int:
    return int((pairs.believed & pairs.true_visibility).sum())
