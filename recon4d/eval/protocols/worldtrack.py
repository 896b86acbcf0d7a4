"""WorldTrack as St4RTrack (Feng et al. 2025) and those after it compute it, and a corrected second version.

Points that are seen in frame 0 are followed through all frames, occluded or not, in the world of frame 0 and in meters.
The published variants are kept as they are, flaws included: the moving points are aligned again on their own, and
sim3_closed_flawed is no least-squares fit where a reflection would fit better. The second version aligns once; over all
points it is the same as worldtrack_apd3d_global and worldtrack_epe_global, so its own scores are over parts.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.alignment.similarity import MIN_NORM, Alignment
from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.track_pairs import TrackPairs, track_pairs
from recon4d.eval.metrics.tracks import (
    NO_TRACKS,
    NO_UNIT,
    aligned_errors,
    distance_score,
    share_score,
)
from recon4d.eval.metrics.units import meters_of
from recon4d.geometry import similarity
from recon4d.records import Scene

MOVING_METERS = 0.01
INLIER_METERS = 0.05
NO_QUERIES = "no true track of anchor 0 is visible there"
NOTHING_MOVES = f"no true path is longer than {MOVING_METERS:g} m"


def _pair_of_metrics(kind: str, alignment: str, over: str = "all points") -> tuple[Metric, Metric]:
    """APD3D and EPE under one alignment; `kind` is the rest of their names, where * stands for apd3d or epe."""
    share = f"WorldTrack: mean over 0.1, 0.3, 0.5 and 1 m of the share of {over} at most that far off, {alignment}"
    distance = f"WorldTrack: mean error of {over} found, {alignment}"
    return (
        Metric("worldtrack_" + kind.replace("*", "apd3d"), "share", "higher", share, worst=0.0),
        Metric("worldtrack_" + kind.replace("*", "epe"), "m", "lower", distance),
    )


_ONCE = "aligned once on all points"
GLOBAL = _pair_of_metrics("*_global", "after the ratio of median norms")
PER_TRAJECTORY = _pair_of_metrics("*_per_traj", "after a ratio of median norms for each track")
SIM3 = _pair_of_metrics("*_sim3", f"after RANSAC Sim(3) with inliers within {INLIER_METERS:g} m, seeded")
CLOSED = _pair_of_metrics(
    "*_sim3_closed_flawed", "after the published Sim(3), whose scale is wrong beside a reflection"
)
REALIGNED = _pair_of_metrics("*_moving_realigned", "after the ratio of their own median norms", "moving points")
_MOVING = "points with a moving median-filtered path"
V2_MOVING = _pair_of_metrics("v2_*_moving", f"by median norms, {_ONCE}", _MOVING)
V2_VISIBLE = _pair_of_metrics("v2_*_visible", f"by median norms, {_ONCE}", "visible points")
V2_MOVING_SIM3 = _pair_of_metrics("v2_*_moving_sim3", f"by RANSAC Sim(3), {_ONCE}", _MOVING)
WORLDTRACK_METRICS = (
    *GLOBAL,
    *PER_TRAJECTORY,
    *SIM3,
    *CLOSED,
    *REALIGNED,
    *V2_MOVING,
    *V2_VISIBLE,
    *V2_MOVING_SIM3,
)


def worldtrack_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """The scores of `WORLDTRACK_METRICS` for `paired` scenes; none where the truth has no tracks.

    Thresholds are in meters: all are undefined where the truth's unit is not known in meters.
    """
    if truth.tracks is None:
        return ()
    pairs = track_pairs(prediction, truth)
    pairs = pairs.of_queries((pairs.anchors == 0) & pairs.true_visibility[0])
    meters, total = meters_of(truth), int(pairs.believed.sum())
    if not total:
        return tuple(undefined(metric.name, 0, NO_QUERIES) for metric in WORLDTRACK_METRICS)
    if prediction.tracks is None or not meters:
        note = NO_TRACKS if prediction.tracks is None else NO_UNIT
        return tuple(undefined(metric.name, total, note) for metric in WORLDTRACK_METRICS)
    errors = aligned_errors(pairs, align_by_medians, meters), aligned_errors(pairs, _align_ransac, meters, least=3)
    return (*_published(pairs, meters, *errors), *_second_version(pairs, meters, *errors))


def align_by_medians(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """WorldTrack's "global": s = median ||G|| / median ||P||, about frame 0's camera, norms at least 1e-12.

    The median of an even number is the mean of the middle two, where `align_scale` takes the lower.
    """
    everywhere = torch.ones(len(true), 1, dtype=torch.bool, device=true.device)
    scale = _median_ratio(predicted[:, None], true[:, None], everywhere)[0]
    matrix = similarity(scale, torch.eye(3).to(scale), torch.zeros(3).to(scale))
    return Alignment("ratio of medians", matrix, len(true))


def align_closed_flawed(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> Alignment:
    """WorldTrack's "sim3_closed" in float64, as published: Umeyama's, but for the scale beside a reflection.

    Where the best orthogonal matrix is a reflection, the last axis is flipped away, but the scale is still the sum of
    all singular values; Umeyama (1991, eq. 42) takes the last one with a minus. `align_sim3` is right.
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
    """Distances to the truth, both in `unit`, after a ratio of median norms for each track ("per_traj").

    NaN where nothing was found.
    """
    true = pairs.true * unit
    scales = _median_ratio(pairs.predicted, true, pairs.found & pairs.believed)
    return (pairs.predicted * scales[:, None] - true).norm(dim=-1)


def path_lengths(points: Float[Tensor, "time query 3"], known: Bool[Tensor, "time query"]) -> Float[Tensor, "query"]:
    """The sum of the steps of each track from one known place to the next."""
    points = _held(points, known)
    return (points[1:] - points[:-1]).norm(dim=-1).sum(dim=0)


def median_filtered(
    points: Float[Tensor, "time query 3"], known: Bool[Tensor, "time query"]
) -> Float[Tensor, "time query 3"]:
    """Each coordinate replaced by the median of three frames, the ends repeated: one wrong frame leaves no trace.

    Unknown places are those of the last known frame (of frame 0 where there is none).
    """
    points = _held(points, known)
    padded = torch.cat([points[:1], points, points[-1:]])
    return torch.stack([padded[:-2], padded[1:-1], padded[2:]]).median(dim=0).values


def _published(pairs: TrackPairs, meters: float, by_medians: Tensor, by_ransac: Tensor) -> tuple[Score, ...]:
    everywhere = pairs.believed
    moving = pairs.of_queries(path_lengths(pairs.true * meters, pairs.believed) > MOVING_METERS)
    realigned = aligned_errors(moving, align_by_medians, meters)
    return (
        *_scores(GLOBAL, by_medians, everywhere, "ratio of medians"),
        *_scores(PER_TRAJECTORY, errors_by_trajectory(pairs, meters), everywhere, "ratio of medians of each track"),
        *_scores(SIM3, by_ransac, everywhere, "sim3 RANSAC"),
        *_scores(CLOSED, aligned_errors(pairs, align_closed_flawed, meters), everywhere, "sim3 closed, flawed"),
        *_scores(REALIGNED, realigned, moving.believed, "ratio of medians of moving points", NOTHING_MOVES),
    )


def _second_version(pairs: TrackPairs, meters: float, by_medians: Tensor, by_ransac: Tensor) -> tuple[Score, ...]:
    smooth = median_filtered(pairs.true * meters, pairs.believed)
    moves = path_lengths(smooth, torch.ones_like(pairs.believed)) > MOVING_METERS
    moving, visible = pairs.believed & moves, pairs.believed & pairs.true_visibility
    return (
        *_scores(V2_MOVING, by_medians, moving, "ratio of medians", NOTHING_MOVES),
        *_scores(V2_VISIBLE, by_medians, visible, "ratio of medians"),
        *_scores(V2_MOVING_SIM3, by_ransac, moving, "sim3 RANSAC", NOTHING_MOVES),
    )


def _scores(
    metrics: tuple[Metric, Metric], errors: Tensor, counted: Tensor, alignment: str, empty: str = NO_QUERIES
) -> tuple[Score, Score]:
    share, distance = metrics
    return (
        share_score(share, errors, counted, alignment, empty),
        distance_score(distance, errors, counted, alignment, empty),
    )


def _align_ransac(predicted: Tensor, true: Tensor) -> Alignment:
    from recon4d.eval.alignment.ransac import align_sim3_ransac

    return align_sim3_ransac(predicted, true, threshold=INLIER_METERS, seed=0)


def _median_ratio(predicted: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """median ||G|| / median ||P|| over the known entries of each column of (n, m, 3); NaN for columns without any."""
    medians = [median_of_columns(points.norm(dim=-1).clamp(min=MIN_NORM), known) for points in (true, predicted)]
    return medians[0] / medians[1]


def median_of_columns(values: Float[Tensor, "n m"], known: Bool[Tensor, "n m"]) -> Float[Tensor, "m"]:
    """The median of the known values of each column, as NumPy has it (the mean of the middle two); NaN without any."""
    ordered = values.where(known, torch.inf).sort(dim=0).values
    counts = known.sum(dim=0, keepdim=True)
    lower, upper = ordered.gather(0, (counts - 1).clamp(min=0) // 2), ordered.gather(0, counts // 2 % len(values))
    return ((lower + upper) / 2)[0].where(counts[0] > 0, torch.nan)


def _held(points: Tensor, known: Tensor) -> Tensor:
    """Points with each unknown place taken from the last known frame before it, or frame 0's."""
    frames = torch.arange(len(points), device=points.device)[:, None]
    last = torch.where(known, frames, 0).cummax(dim=0).values
    return points.gather(0, last[..., None].expand_as(points))
