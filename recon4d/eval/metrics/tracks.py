"""Metrics of 3D tracks: distances, accuracy within thresholds, dynamic points, survival and visibility.

Each clip is aligned once, over all points that are known in the truth and found in the prediction, whether occluded or
not, and never again for a subset. Missing tracks count as errors in accuracy metrics; distance metrics average over
found tracks and report coverage.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.eval.alignment.similarity import Alignment, align_scale, align_scale_by_ratios, align_sim3
from recon4d.eval.metrics.score import Metric, Score, length, scores, share, undefined
from recon4d.eval.metrics.track_pairs import TrackPairs, track_pairs
from recon4d.eval.metrics.units import meters_of
from recon4d.geometry import transform_points
from recon4d.records import Scene
from recon4d.refine.no_solution import NoSolution

METERS = (0.1, 0.3, 0.5, 1.0)
"""Thresholds of 3D errors, in meters (WorldTrack)."""
SURVIVAL_METERS = 0.5
"""Error above which a track is lost, in meters. Hand-tuned."""
MIN_DISPLACEMENT_SHARE = 0.02
"""Smallest displacement of a dynamic point since its anchor, as a share of its depth at the anchor. Hand-tuned."""
MEDIAN_DEPTH = 3.0
"""Median true depth of a clip in the unit of `moving_epe`, which makes clips without metric scale comparable."""
NO_UNIT = "the truth's unit is not known in meters"
"""Note of scores with thresholds in meters if the length of the unit is unknown."""
NO_TRACKS = "no tracks were predicted"
"""Note of scores of predictions without tracks."""
NOTHING_FOUND = "no predicted track could be aligned with the true queries"
"""Note of distances if no predicted track matches, or all lie at the origin."""
NOTHING_DYNAMIC = "the truth has no dynamic points"
"""Note of metrics of dynamic points if there are none."""
NO_QUERIES = "no true track is known at its anchor"
"""Note of scores if there are no true queries."""

_ONLY_AT_ANCHOR = "no true track is known at other times than its anchor's"

_APD = "Share of points within 0.1, 0.3, 0.5 and 1 m of the truth, averaged over the thresholds"
_EPE = "Mean distance of found points to the truth"
_SCALE = "after one median scale per clip (ratio of medians)"
_SIM3 = "after one Sim(3) alignment per clip"
_RATIOS = "after one median scale per clip (median of ratios)"
_MISSING = "Missing points count as errors."
_DYNAMIC = f"over points displaced by more than {MIN_DISPLACEMENT_SHARE:.0%} of their depth at the anchor"
_UNIT_OF_DEPTH = f"median depth / {MEDIAN_DEPTH:g}"

APD3D = share("apd3d", f"{_APD}, {_SCALE}. {_MISSING}", is_track_headline=True)
EPE = length("epe", f"{_EPE}, {_SCALE}.", is_headline=True, is_track_headline=True, skips="points")
APD3D_SIM3 = share("apd3d_sim3", f"{_APD}, {_SIM3}. {_MISSING}", is_track_headline=True)
EPE_SIM3 = length("epe_sim3", f"{_EPE}, {_SIM3}.", is_track_headline=True, skips="points")
APD3D_RATIOS = share("apd3d_median_of_ratios", f"{_APD}, {_RATIOS}. {_MISSING}")
APD3D_MOVING = share("apd3d_moving", f"{_APD}, {_SCALE}, {_DYNAMIC}. {_MISSING}")
EPE_MOVING = length("epe_moving", f"{_EPE}, {_SCALE}, {_DYNAMIC}.", skips="points")
MOVING_EPE = Metric(
    "moving_epe",
    _UNIT_OF_DEPTH,
    "lower",
    f"{_EPE}, {_SCALE}, {_DYNAMIC}, pooled over clips.",
    is_pooled=True,
    is_headline=True,
    skips="points",
)
STATIC_ORACLE = Metric(
    "static_oracle_moving_epe",
    _UNIT_OF_DEPTH,
    "neither",
    f"Value of moving_epe if every point stays at its true position at the anchor, {_DYNAMIC}, pooled over clips.",
    is_pooled=True,
    skips="points",
)
SURVIVAL = share(
    "survival",
    f"Mean over tracks of the share of later frames before the error first exceeds {SURVIVAL_METERS:g} m, {_SCALE}.",
)
VISIBILITY = share(
    "visibility_accuracy",
    f"Share of points at times other than the anchor's whose visibility (threshold 0.5) is correct. {_MISSING}",
    is_headline=True,
)
AJ = share(
    "aj",
    "Jaccard index of visible points (TAP-Vid, Doersch et al. 2022) within 0.1, 0.3, 0.5 and 1 m, averaged over the "
    f"thresholds, {_SCALE}.",
)


@scores(
    "Tracks",
    APD3D,
    EPE,
    APD3D_SIM3,
    EPE_SIM3,
    APD3D_RATIOS,
    APD3D_MOVING,
    EPE_MOVING,
    MOVING_EPE,
    STATIC_ORACLE,
    SURVIVAL,
    VISIBILITY,
    AJ,
)
def track_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """Score the predicted tracks in space.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        The scores of `track_scores.metrics`, in their order; empty if the truth has no tracks. Without predicted tracks
        all are undefined except the static oracle, which depends only on the truth.
    """
    if truth.tracks is None:
        return ()
    pairs = track_pairs(prediction, truth)
    if not len(pairs.anchors):
        return tuple(undefined(metric.name, 0, NO_QUERIES) for metric in track_scores.metrics)
    found = (*_distance_scores(pairs, truth), *_motion_scores(pairs, truth), *_visibility_scores(pairs, truth))
    if prediction.tracks is not None:
        return found
    return tuple(
        score if score.metric == STATIC_ORACLE.name else undefined(score.metric, score.total, NO_TRACKS)
        for score in found
    )


def aligned_errors(
    pairs: TrackPairs, align: Callable[[Tensor, Tensor], Alignment], unit: float = 1.0, min_points: int = 1
) -> Float[Tensor, "time query"]:
    """Compute the distances to the truth after one alignment over all found and known points.

    Args:
        pairs: True and predicted tracks.
        align: Function of predicted and true points, each of shape (n, 3), that returns their alignment.
        unit: Factor from the unit of the truth to the unit of the errors, for example meters per unit.
        min_points: Minimum number of points for the alignment.

    Returns:
        Distances; NaN for missing points. All are NaN with fewer than `min_points` points or if `align` raises
        `NoSolution`.
    """
    is_aligned = pairs.is_found & pairs.is_known
    true = pairs.true * unit
    unknown = torch.full_like(pairs.predicted_visibility, torch.nan)
    if int(is_aligned.sum()) < min_points:
        return unknown
    try:
        truth_from_prediction = align(pairs.predicted[is_aligned], true[is_aligned]).truth_from_prediction
    except NoSolution:
        return unknown
    return (transform_points(truth_from_prediction.to(true), pairs.predicted) - true).norm(dim=-1)


def is_dynamic_entry(pairs: TrackPairs) -> Bool[Tensor, "time query"]:
    """Find the entries of tracks at which the true point has moved.

    Args:
        pairs: True and predicted tracks.

    Returns:
        True where the true point is known and displaced from its position at the anchor by more than 2 % of its depth
        there.
    """
    return pairs.is_known & (_displacements(pairs) > MIN_DISPLACEMENT_SHARE * pairs.depth_at_anchor)


def mean_share_within(
    errors: Float[Tensor, "time query"], is_counted: Bool[Tensor, "time query"], thresholds: Sequence[float]
) -> float:
    """Compute the share of errors that are at most each threshold.

    Args:
        errors: Errors; NaN exceeds every threshold.
        is_counted: Entries to average over, at least one.
        thresholds: Thresholds in the unit of the errors.

    Returns:
        Mean of the shares over the thresholds.
    """
    errors = errors[is_counted]
    return sum(float((errors <= threshold).double().mean()) for threshold in thresholds) / len(thresholds)


def jaccard(
    is_within: Bool[Tensor, "time query"],
    predicted_visibility: Bool[Tensor, "time query"],
    true_visibility: Bool[Tensor, "time query"],
    is_counted: Bool[Tensor, "time query"],
) -> float:
    """Compute the Jaccard index of TAP-Vid (Doersch et al. 2022).

    A point that is predicted to be visible is a true positive if it is visible and within the threshold, otherwise a
    false positive.

    Args:
        is_within: Points with an error within the threshold.
        predicted_visibility: Points that are predicted to be visible.
        true_visibility: True points that are visible.
        is_counted: Points to evaluate.

    Returns:
        True positives divided by the sum of visible true points and false positives.
    """
    hits = is_within & true_visibility
    true_positives = (is_counted & predicted_visibility & hits).sum()
    false_positives = (is_counted & predicted_visibility & ~hits).sum()
    return float(true_positives / ((is_counted & true_visibility).sum() + false_positives))


def survival_shares(
    survives: Bool[Tensor, "time query"],
    frames_from_anchor: Int[Tensor, "time query"],
    is_counted: Bool[Tensor, "time query"],
) -> Float[Tensor, "query"]:
    """Compute how long each track survives, starting at its anchor.

    Args:
        survives: Entries with an error within the threshold.
        frames_from_anchor: Number of frames from the anchor to each frame.
        is_counted: Entries to evaluate, on one side of the anchor.

    Returns:
        Share of the counted frames of each track before the first one that does not survive; NaN for tracks without
        counted frames.
    """
    steps = frames_from_anchor.abs()
    first_loss = torch.where(is_counted & ~survives, steps, len(steps)).amin(dim=0)
    return (is_counted & (steps < first_loss)).sum(dim=0) / is_counted.sum(dim=0)


def share_score(
    metric: Metric,
    errors: Float[Tensor, "time query"],
    is_counted: Bool[Tensor, "time query"],
    alignment: str,
    empty_note: str = NO_QUERIES,
) -> Score:
    """Create the score of an accuracy metric within 0.1, 0.3, 0.5 and 1 m.

    Args:
        metric: Metric to score.
        errors: Errors in meters; NaN counts as an error.
        is_counted: Entries to average over.
        alignment: Name of the alignment.
        empty_note: Note if no entries are counted.

    Returns:
        The score; undefined without counted entries.
    """
    total = int(is_counted.sum())
    if not total:
        return undefined(metric.name, 0, empty_note, alignment)
    return Score(metric.name, mean_share_within(errors, is_counted, METERS), total, total, alignment)


def distance_score(
    metric: Metric,
    errors: Float[Tensor, "time query"],
    is_counted: Bool[Tensor, "time query"],
    alignment: str,
    empty_note: str = NO_QUERIES,
    note: str = "",
) -> Score:
    """Create the score of a distance metric, which averages over found points.

    Args:
        metric: Metric to score.
        errors: Errors in the unit of the metric; NaN is skipped.
        is_counted: Entries to average over.
        alignment: Name of the alignment.
        empty_note: Note if no entries are counted.
        note: Note of a defined score.

    Returns:
        The score; undefined without counted entries or if all their errors are NaN.
    """
    total = int(is_counted.sum())
    known = errors[is_counted & ~errors.isnan()]
    if not len(known):
        return undefined(metric.name, total, NOTHING_FOUND if total else empty_note, alignment)
    return Score(metric.name, float(known.double().mean()), len(known), total, alignment, note)


def require_meters(score: Score, meters: float | None) -> Score:
    """Replace a score with thresholds in meters if the length of the unit is unknown.

    Args:
        score: Score of a metric with thresholds in meters.
        meters: Meters per unit of the truth; None if unknown.

    Returns:
        The score; undefined if `meters` is None.
    """
    return score if meters else undefined(score.metric, score.total, NO_UNIT, score.alignment)


def _displacements(pairs: TrackPairs) -> Float[Tensor, "time query"]:
    return (pairs.true - pairs.true_at_anchor).norm(dim=-1)


def _distance_scores(pairs: TrackPairs, truth: Scene) -> tuple[Score, ...]:
    meters = meters_of(truth)
    unit, note = meters or 1.0, "" if meters else f"in the truth's unit: {NO_UNIT}"
    is_dynamic, is_known = is_dynamic_entry(pairs), pairs.is_known
    by_scale = aligned_errors(pairs, align_scale, unit)
    by_sim3 = aligned_errors(pairs, align_sim3, unit)
    by_ratios = aligned_errors(pairs, align_scale_by_ratios, unit)
    return (
        require_meters(share_score(APD3D, by_scale, is_known, "median scale"), meters),
        distance_score(EPE, by_scale, is_known, "median scale", note=note),
        require_meters(share_score(APD3D_SIM3, by_sim3, is_known, "sim3"), meters),
        distance_score(EPE_SIM3, by_sim3, is_known, "sim3", note=note),
        require_meters(share_score(APD3D_RATIOS, by_ratios, is_known, "median of ratios"), meters),
        require_meters(share_score(APD3D_MOVING, by_scale, is_dynamic, "median scale", NOTHING_DYNAMIC), meters),
        distance_score(EPE_MOVING, by_scale, is_dynamic, "median scale", NOTHING_DYNAMIC, note),
    )


def _motion_scores(pairs: TrackPairs, truth: Scene) -> tuple[Score, ...]:
    """Return moving_epe and the static oracle, in units in which the median true depth is `MEDIAN_DEPTH`."""
    is_dynamic = is_dynamic_entry(pairs)
    is_known = truth.depth_confidence > 0
    median_depth = (truth.depths[is_known] if is_known.any() else pairs.depth_at_anchor).median()
    unit = MEDIAN_DEPTH / median_depth
    errors = aligned_errors(pairs, align_scale) * unit
    return (
        distance_score(MOVING_EPE, errors, is_dynamic, "median scale", NOTHING_DYNAMIC),
        distance_score(STATIC_ORACLE, _displacements(pairs) * unit, is_dynamic, "none", NOTHING_DYNAMIC),
    )


def _visibility_scores(pairs: TrackPairs, truth: Scene) -> tuple[Score, ...]:
    meters = meters_of(truth)
    errors = aligned_errors(pairs, align_scale, meters or 1.0)
    return (
        require_meters(_survival(pairs, errors), meters),
        _visibility_accuracy(pairs),
        require_meters(_average_jaccard(pairs, errors), meters),
    )


def _survival(pairs: TrackPairs, errors: Tensor) -> Score:
    is_later = pairs.is_known & (pairs.frames_from_anchor > 0)
    # Tracks without known points after their anchor are evaluated backward in time.
    is_counted = torch.where(is_later.any(dim=0), is_later, pairs.is_known & (pairs.frames_from_anchor < 0))
    shares = survival_shares(errors <= SURVIVAL_METERS, pairs.frames_from_anchor, is_counted)
    shares = shares[~shares.isnan()]
    if not len(shares):
        return undefined(SURVIVAL.name, 0, _ONLY_AT_ANCHOR, "median scale")
    return Score(SURVIVAL.name, float(shares.mean()), len(shares), len(pairs.anchors), "median scale")


def _visibility_accuracy(pairs: TrackPairs) -> Score:
    is_counted = pairs.is_known & (pairs.frames_from_anchor != 0)
    total = int(is_counted.sum())
    if not total:
        return undefined(VISIBILITY.name, 0, _ONLY_AT_ANCHOR)
    is_correct = pairs.is_found & ((pairs.predicted_visibility > 0.5) == pairs.true_visibility)
    return Score(VISIBILITY.name, float(is_correct[is_counted].double().mean()), total, total)


def _average_jaccard(pairs: TrackPairs, errors: Tensor) -> Score:
    total = int((pairs.is_known & pairs.true_visibility).sum())
    if not total:
        return undefined(AJ.name, 0, "no true track is visible", "median scale")
    predicted_visibility = pairs.predicted_visibility > 0.5
    values = [
        jaccard(errors <= meters, predicted_visibility, pairs.true_visibility, pairs.is_known) for meters in METERS
    ]
    return Score(AJ.name, sum(values) / len(values), total, total, "median scale")
