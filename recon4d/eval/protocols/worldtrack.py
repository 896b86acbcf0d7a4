"""WorldTrack protocol of St4RTrack (Feng et al. 2025), and a corrected second version (v2).

Points that are visible in frame 0 are evaluated in all frames, occluded or not, in the world of frame 0 and in meters.
The published variants are reproduced with their flaws: dynamic points are aligned again as a subset, and
`sim3_closed_flawed` is not a least-squares fit if a reflection fits better. The second version aligns each clip once.
Over all points it equals `worldtrack_apd3d_global` and `worldtrack_epe_global`, so only its scores over subsets are
reported.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.alignment.similarity import MIN_NORM, Alignment
from recon4d.eval.metrics.score import Metric, Score, length, scores, share, undefined
from recon4d.eval.metrics.track_pairs import TrackPairs, track_pairs
from recon4d.eval.metrics.tracks import NO_TRACKS, NO_UNIT, aligned_errors, distance_score, share_score
from recon4d.eval.metrics.units import meters_of
from recon4d.geometry import similarity
from recon4d.records import Scene

MIN_PATH_METERS = 0.01
"""Path length above which a track is dynamic, in meters (St4RTrack)."""
INLIER_METERS = 0.05
"""Inlier threshold of the RANSAC alignment, in meters (St4RTrack)."""
NO_QUERIES = "no true track of anchor 0 is visible at its anchor"
"""Note of scores if there are no queries."""
NOTHING_DYNAMIC = f"no true path is longer than {MIN_PATH_METERS:g} m"
"""Note of scores of dynamic points if there are none."""


def _pair_of_metrics(kind: str, alignment: str, over: str = "all points", **options: Any) -> tuple[Metric, Metric]:
    """Define APD3D and EPE for one alignment; `kind` is the rest of their names, with * in place of apd3d or epe."""
    return (
        share(
            "worldtrack_" + kind.replace("*", "apd3d"),
            f"WorldTrack: share of {over} within 0.1, 0.3, 0.5 and 1 m of the truth, averaged over the thresholds, "
            f"{alignment}. Missing points count as errors.",
            **options,
        ),
        length(
            "worldtrack_" + kind.replace("*", "epe"),
            f"WorldTrack: mean distance of {over} to the truth, {alignment}. Missing points are skipped.",
            skips="points",
            **options,
        ),
    )


_DYNAMIC = f"dynamic points (path longer than {MIN_PATH_METERS:g} m)"
_FILTERED = f"dynamic points (median-filtered path longer than {MIN_PATH_METERS:g} m)"
GLOBAL = _pair_of_metrics("*_global", "after one median scale per clip", is_track_headline=True)
PER_TRAJECTORY = _pair_of_metrics("*_per_traj", "after one median scale per track")
SIM3 = _pair_of_metrics(
    "*_sim3", f"after seeded RANSAC Sim(3) alignment with inliers within {INLIER_METERS:g} m", is_track_headline=True
)
CLOSED = _pair_of_metrics(
    "*_sim3_closed_flawed", "after the published Sim(3) alignment, whose scale is wrong if a reflection fits better"
)
REALIGNED = _pair_of_metrics("*_moving_realigned", "after one median scale over these points only", _DYNAMIC)
V2_MOVING = _pair_of_metrics("v2_*_moving", "after one median scale over all points", _FILTERED)
V2_VISIBLE = _pair_of_metrics("v2_*_visible", "after one median scale over all points", "visible points")
V2_MOVING_SIM3 = _pair_of_metrics("v2_*_moving_sim3", "after RANSAC Sim(3) alignment of all points", _FILTERED)


@scores(
    "Published protocols",
    *(*GLOBAL, *PER_TRAJECTORY, *SIM3, *CLOSED, *REALIGNED, *V2_MOVING, *V2_VISIBLE, *V2_MOVING_SIM3),
    protocol="worldtrack",
)
def worldtrack_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """Score the predicted tracks by the WorldTrack protocol.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        The scores of `worldtrack_scores.metrics`, in their order; empty if the truth has no tracks. All are undefined
        if the length of the truth's unit is unknown, because thresholds are in meters.
    """
    if truth.tracks is None:
        return ()
    pairs = track_pairs(prediction, truth)
    pairs = pairs.select_queries((pairs.anchors == 0) & pairs.true_visibility[0])
    meters, total = meters_of(truth), int(pairs.is_known.sum())
    if not total:
        return tuple(undefined(metric.name, 0, NO_QUERIES) for metric in worldtrack_scores.metrics)
    if prediction.tracks is None or not meters:
        note = NO_TRACKS if prediction.tracks is None else NO_UNIT
        return tuple(undefined(metric.name, total, note) for metric in worldtrack_scores.metrics)
    errors = aligned_errors(pairs, align_by_medians, meters), aligned_errors(pairs, _align_ransac, meters, min_points=3)
    return (*_published(pairs, meters, *errors), *_second_version(pairs, meters, *errors))


def align_by_medians(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """Compute WorldTrack's "global" scale s = median ||G|| / median ||P|| about the camera of frame 0.

    Norms are at least 1e-12. The median of an even number of values is the mean of the two middle ones, unlike in
    `align_scale`.

    Args:
        predicted: Predicted points P.
        true: True points G in the same order.

    Returns:
        The alignment, a pure scale.
    """
    everywhere = torch.ones(len(true), 1, dtype=torch.bool, device=true.device)
    scale = _median_ratio(predicted[:, None], true[:, None], everywhere)[0]
    matrix = similarity(scale, torch.eye(3).to(scale), torch.zeros(3).to(scale))
    return Alignment("ratio of medians", matrix, len(true))


def align_closed_flawed(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """Fit WorldTrack's "sim3_closed" in float64, with the published error in the scale.

    If the best orthogonal matrix is a reflection, the last axis is flipped to obtain a rotation, but the scale remains
    the sum of all singular values. The correct scale subtracts the last one (Umeyama 1991, eq. 42), as in `align_sim3`.

    Args:
        predicted: Predicted points.
        true: True points in the same order.

    Returns:
        The alignment.
    """
    source, target = predicted.double(), true.double()
    mean_source, mean_target = source.mean(dim=0), target.mean(dim=0)
    covariance = (source - mean_source).T @ (target - mean_target)
    left, singular, right = torch.linalg.svd(covariance)
    signs = torch.ones_like(singular)
    signs[2] = torch.where(torch.det(left @ right) < 0, -1.0, 1.0)
    rotation = right.T @ (signs[:, None] * left.T)
    scale = singular.sum() / ((source - mean_source).square().sum() + MIN_NORM)
    translation = mean_target - scale * rotation @ mean_source
    return Alignment("sim3 closed, flawed", similarity(scale, rotation, translation).to(true.dtype), len(true))


def errors_by_trajectory(pairs: TrackPairs, unit: float) -> Float[Tensor, "time query"]:
    """Compute the distances to the truth after one median scale per track ("per_traj").

    Args:
        pairs: True and predicted tracks.
        unit: Factor from the unit of the truth to the unit of the errors.

    Returns:
        Distances; NaN for missing points.
    """
    true = pairs.true * unit
    scales = _median_ratio(pairs.predicted, true, pairs.is_found & pairs.is_known)
    return (pairs.predicted * scales[:, None] - true).norm(dim=-1)


def path_lengths(points: Float[Tensor, "time query 3"], is_known: Bool[Tensor, "time query"]) -> Float[Tensor, "query"]:
    """Compute the length of each path over its known points.

    Args:
        points: Points of the tracks.
        is_known: Known points; the others are skipped.

    Returns:
        Sum of the distances between consecutive known points, in the unit of the points.
    """
    points = _fill_forward(points, is_known)
    return (points[1:] - points[:-1]).norm(dim=-1).sum(dim=0)


def median_filter(
    points: Float[Tensor, "time query 3"], is_known: Bool[Tensor, "time query"]
) -> Float[Tensor, "time query 3"]:
    """Filter each coordinate by the median over three frames, which removes errors of single frames.

    The first and the last frame are repeated at the ends. Unknown points take the position of the last known frame
    before them (of frame 0 if there is none).

    Args:
        points: Points of the tracks.
        is_known: Known points.

    Returns:
        Filtered points.
    """
    points = _fill_forward(points, is_known)
    padded = torch.cat([points[:1], points, points[-1:]])
    return torch.stack([padded[:-2], padded[1:-1], padded[2:]]).median(dim=0).values


def _published(pairs: TrackPairs, meters: float, by_medians: Tensor, by_ransac: Tensor) -> tuple[Score, ...]:
    """Return the scores of the published variants."""
    is_known = pairs.is_known
    dynamic = pairs.select_queries(path_lengths(pairs.true * meters, pairs.is_known) > MIN_PATH_METERS)
    realigned = aligned_errors(dynamic, align_by_medians, meters)
    return (
        *_scores(GLOBAL, by_medians, is_known, "ratio of medians"),
        *_scores(PER_TRAJECTORY, errors_by_trajectory(pairs, meters), is_known, "ratio of medians of each track"),
        *_scores(SIM3, by_ransac, is_known, "sim3 RANSAC"),
        *_scores(CLOSED, aligned_errors(pairs, align_closed_flawed, meters), is_known, "sim3 closed, flawed"),
        *_scores(REALIGNED, realigned, dynamic.is_known, "ratio of medians of moving points", NOTHING_DYNAMIC),
    )


def _second_version(pairs: TrackPairs, meters: float, by_medians: Tensor, by_ransac: Tensor) -> tuple[Score, ...]:
    """Return the scores of the second version, over subsets of points that are aligned together."""
    filtered = median_filter(pairs.true * meters, pairs.is_known)
    is_dynamic = path_lengths(filtered, torch.ones_like(pairs.is_known)) > MIN_PATH_METERS
    dynamic, visible = pairs.is_known & is_dynamic, pairs.is_known & pairs.true_visibility
    return (
        *_scores(V2_MOVING, by_medians, dynamic, "ratio of medians", NOTHING_DYNAMIC),
        *_scores(V2_VISIBLE, by_medians, visible, "ratio of medians"),
        *_scores(V2_MOVING_SIM3, by_ransac, dynamic, "sim3 RANSAC", NOTHING_DYNAMIC),
    )


def _scores(
    metrics: tuple[Metric, Metric], errors: Tensor, is_counted: Tensor, alignment: str, empty_note: str = NO_QUERIES
) -> tuple[Score, Score]:
    share, distance = metrics
    return (
        share_score(share, errors, is_counted, alignment, empty_note),
        distance_score(distance, errors, is_counted, alignment, empty_note),
    )


def _align_ransac(predicted: Tensor, true: Tensor) -> Alignment:
    from recon4d.eval.alignment.ransac import align_sim3_ransac

    return align_sim3_ransac(predicted, true, threshold=INLIER_METERS, seed=0)


def _median_ratio(predicted: Tensor, true: Tensor, is_known: Tensor) -> Tensor:
    """Return median ||G|| / median ||P|| over the known entries of each column of (n, m, 3); NaN without any."""
    medians = [median_of_columns(points.norm(dim=-1).clamp(min=MIN_NORM), is_known) for points in (true, predicted)]
    return medians[0] / medians[1]


def median_of_columns(values: Float[Tensor, "n m"], is_known: Bool[Tensor, "n m"]) -> Float[Tensor, "m"]:
    """Compute the median of each column, with the mean of the two middle values of an even number, as in NumPy.

    Args:
        values: Values of each column.
        is_known: Values to use.

    Returns:
        Medians of the known values; NaN for columns without known values.
    """
    ordered = values.where(is_known, torch.inf).sort(dim=0).values
    counts = is_known.sum(dim=0, keepdim=True)
    lower, upper = ordered.gather(0, (counts - 1).clamp(min=0) // 2), ordered.gather(0, counts // 2 % len(values))
    return ((lower + upper) / 2)[0].where(counts[0] > 0, torch.nan)


def _fill_forward(points: Tensor, is_known: Tensor) -> Tensor:
    """Replace unknown points by those of the last known frame before them, or of frame 0."""
    frames = torch.arange(len(points), device=points.device)[:, None]
    last = torch.where(is_known, frames, 0).cummax(dim=0).values
    return points.gather(0, last[..., None].expand_as(points))
