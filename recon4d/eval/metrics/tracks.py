"""How well points are followed through space and time: distances, shares within meters, motion and visibility.

A clip is aligned once, over all that is found and known, occluded or not, and never again for a part of it. What was
not found counts as wrong in shares; distances are over what was found, and say over how much.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.alignment.similarity import (
    Alignment,
    align_scale,
    align_scale_by_ratios,
    align_sim3,
)
from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.track_pairs import TrackPairs, track_pairs
from recon4d.eval.metrics.units import meters_of
from recon4d.geometry import transform_points
from recon4d.records import Scene

METERS = (0.1, 0.3, 0.5, 1.0)
SURVIVAL_METERS = 0.5
MOVING_SHARE = 0.02
"""A point has moved when it is farther from its place at the anchor than this share of its depth there."""
MEDIAN_DEPTH = 3.0
"""Distances of moving points are in units in which this is the clip's median depth: comparable without meters."""
NO_UNIT = "the truth's unit is not known in meters"
NO_TRACKS = "no tracks were predicted"
NOTHING_FOUND = "no track was found at the true queries"
NOTHING_MOVES = "nothing moves in the truth"
NO_QUERIES = "the truth knows no track at its anchor"

_APD = "mean over 0.1, 0.3, 0.5 and 1 m of the share of points at most that far from the truth"
_EPE = "mean distance of found points to the truth"
_SCALE, _SIM3, _RATIOS = "after a median scale", "after Sim(3)", "after the median of ratios of norms"
_MOVES = f"over points that have moved by more than {MOVING_SHARE:.0%} of their depth"
_UNIT_OF_DEPTH = f"median depth / {MEDIAN_DEPTH:g}"

APD3D = Metric("apd3d", "share", "higher", f"{_APD}, {_SCALE}", worst=0.0)
EPE = Metric("epe", "m", "lower", f"{_EPE}, {_SCALE}")
APD3D_SIM3 = Metric("apd3d_sim3", "share", "higher", f"{_APD}, {_SIM3}", worst=0.0)
EPE_SIM3 = Metric("epe_sim3", "m", "lower", f"{_EPE}, {_SIM3}")
APD3D_RATIOS = Metric("apd3d_median_of_ratios", "share", "higher", f"{_APD}, {_RATIOS}", worst=0.0)
APD3D_MOVING = Metric("apd3d_moving", "share", "higher", f"{_APD}, {_SCALE}, {_MOVES}", worst=0.0)
EPE_MOVING = Metric("epe_moving", "m", "lower", f"{_EPE}, {_SCALE}, {_MOVES}")
MOVING_EPE = Metric("moving_epe", _UNIT_OF_DEPTH, "lower", f"{_EPE}, {_SCALE}, {_MOVES}", is_pooled=True)
STATIC_ORACLE = Metric(
    "static_oracle_moving_epe",
    _UNIT_OF_DEPTH,
    "neither",
    f"moving_epe if the true points of the anchors were held still, {_MOVES}",
    is_pooled=True,
)
SURVIVAL = Metric(
    "survival",
    "share",
    "higher",
    f"mean over tracks of the share of later frames until the error is above {SURVIVAL_METERS:g} m, {_SCALE}",
    worst=0.0,
)
VISIBILITY = Metric(
    "visibility_accuracy", "share", "higher", "share of points, anchors apart, rightly said seen or hidden", worst=0.0
)
AJ = Metric(
    "aj", "share", "higher", f"average Jaccard of TAP-Vid (Doersch 2022) at 0.1, 0.3, 0.5 and 1 m, {_SCALE}", worst=0.0
)
TRACK_METRICS = (
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
    """The scores of `TRACK_METRICS` for `paired` scenes; none where the truth has no tracks.

    Without predicted tracks all are undefined but the static oracle's, which is the truth's alone.
    """
    if truth.tracks is None:
        return ()
    pairs = track_pairs(prediction, truth)
    if not len(pairs.anchors):
        return tuple(undefined(metric.name, 0, NO_QUERIES) for metric in TRACK_METRICS)
    scores = (*_distance_scores(pairs, truth), *_motion_scores(pairs, truth), *_visibility_scores(pairs, truth))
    if prediction.tracks is not None:
        return scores
    return tuple(
        score if score.metric == STATIC_ORACLE.name else undefined(score.metric, score.total, NO_TRACKS)
        for score in scores
    )


def aligned_errors(
    pairs: TrackPairs, align: Callable[[Tensor, Tensor], Alignment], unit: float = 1.0, least: int = 1
) -> Float[Tensor, "time query"]:
    """Distances to the truth, both in `unit` times the truth's unit, after one alignment over all found and known.

    NaN where nothing was found, and everywhere if fewer than `least` points were.
    """
    both = pairs.found & pairs.believed
    true = pairs.true * unit
    if int(both.sum()) < least:
        return torch.full_like(pairs.predicted_visibility, torch.nan)
    truth_from_prediction = align(pairs.predicted[both], true[both]).truth_from_prediction
    return (transform_points(truth_from_prediction.to(true), pairs.predicted) - true).norm(dim=-1)


def moving_entries(pairs: TrackPairs) -> Bool[Tensor, "time query"]:
    """Where the true point is known and farther than 2 % of its anchor's depth from where it was at the anchor."""
    return pairs.believed & (_displacements(pairs) > MOVING_SHARE * pairs.depth_at_anchor)


def share_within(
    errors: Float[Tensor, "time query"], counted: Bool[Tensor, "time query"], thresholds: Sequence[float]
) -> float:
    """The mean over `thresholds` of the share of counted errors at most that large; NaN errors are not."""
    errors = errors[counted]
    return sum(float((errors <= threshold).double().mean()) for threshold in thresholds) / len(thresholds)


def jaccard(
    is_within: Bool[Tensor, "time query"],
    predicted_visible: Bool[Tensor, "time query"],
    true_visible: Bool[Tensor, "time query"],
    counted: Bool[Tensor, "time query"],
) -> float:
    """TAP-Vid's Jaccard (Doersch et al. 2022): true positives over (what is truly visible + false positives).

    What is said to be visible is a true positive where it is so and within the threshold, else a false positive.
    """
    hits = is_within & true_visible
    true_positives = (counted & predicted_visible & hits).sum()
    false_positives = (counted & predicted_visible & ~hits).sum()
    return float(true_positives / ((counted & true_visible).sum() + false_positives))


def survival_shares(
    survives: Bool[Tensor, "time query"], frames_from_anchor: Tensor, counted: Bool[Tensor, "time query"]
) -> Float[Tensor, "query"]:
    """For each track the share of its counted frames, going away from the anchor, before the first not survived.

    NaN for tracks with nothing counted.
    """
    steps = frames_from_anchor.abs()
    first_loss = torch.where(counted & ~survives, steps, len(steps)).amin(dim=0)
    return (counted & (steps < first_loss)).sum(dim=0) / counted.sum(dim=0)


def share_score(metric: Metric, errors: Tensor, counted: Tensor, alignment: str, empty: str = NO_QUERIES) -> Score:
    """The score of `share_within` at 0.1, 0.3, 0.5 and 1 m of errors in meters; undefined (`empty`) without any."""
    total = int(counted.sum())
    if not total:
        return undefined(metric.name, 0, empty, alignment)
    return Score(metric.name, share_within(errors, counted, METERS), total, total, alignment)


def distance_score(
    metric: Metric, errors: Tensor, counted: Tensor, alignment: str, empty: str = NO_QUERIES, note: str = ""
) -> Score:
    """The mean of the counted errors that are not NaN; undefined where there are none."""
    total = int(counted.sum())
    known = errors[counted & ~errors.isnan()]
    if not len(known):
        return undefined(metric.name, total, NOTHING_FOUND if total else empty, alignment)
    return Score(metric.name, float(known.double().mean()), len(known), total, alignment, note)


def needs_meters(score: Score, meters: float | None) -> Score:
    """The score, or what takes its place where meters are not known."""
    return score if meters else undefined(score.metric, score.total, NO_UNIT, score.alignment)


def _displacements(pairs: TrackPairs) -> Float[Tensor, "time query"]:
    return (pairs.true - pairs.true_at_anchor).norm(dim=-1)


def _distance_scores(pairs: TrackPairs, truth: Scene) -> tuple[Score, ...]:
    meters = meters_of(truth)
    unit, note = meters or 1.0, "" if meters else f"in the truth's unit: {NO_UNIT}"
    moving, believed = moving_entries(pairs), pairs.believed
    by_scale = aligned_errors(pairs, align_scale, unit)
    by_sim3 = aligned_errors(pairs, align_sim3, unit)
    by_ratios = aligned_errors(pairs, align_scale_by_ratios, unit)
    return (
        needs_meters(share_score(APD3D, by_scale, believed, "median scale"), meters),
        distance_score(EPE, by_scale, believed, "median scale", note=note),
        needs_meters(share_score(APD3D_SIM3, by_sim3, believed, "sim3"), meters),
        distance_score(EPE_SIM3, by_sim3, believed, "sim3", note=note),
        needs_meters(share_score(APD3D_RATIOS, by_ratios, believed, "median of ratios"), meters),
        needs_meters(share_score(APD3D_MOVING, by_scale, moving, "median scale", NOTHING_MOVES), meters),
        distance_score(EPE_MOVING, by_scale, moving, "median scale", NOTHING_MOVES, note),
    )


def _motion_scores(pairs: TrackPairs, truth: Scene) -> tuple[Score, ...]:
    moving = moving_entries(pairs)
    known = truth.depth_confidence > 0
    median_depth = (truth.depths[known] if known.any() else pairs.depth_at_anchor).median()
    unit = MEDIAN_DEPTH / median_depth
    errors = aligned_errors(pairs, align_scale) * unit
    return (
        distance_score(MOVING_EPE, errors, moving, "median scale", NOTHING_MOVES),
        distance_score(STATIC_ORACLE, _displacements(pairs) * unit, moving, "none", NOTHING_MOVES),
    )


def _visibility_scores(pairs: TrackPairs, truth: Scene) -> tuple[Score, ...]:
    meters = meters_of(truth)
    errors = aligned_errors(pairs, align_scale, meters or 1.0)
    return (
        needs_meters(_survival(pairs, errors), meters),
        _visibility_accuracy(pairs),
        needs_meters(_average_jaccard(pairs, errors), meters),
    )


def _survival(pairs: TrackPairs, errors: Tensor) -> Score:
    later = pairs.believed & (pairs.frames_from_anchor > 0)
    # A track whose anchor is the last frame that knows it is followed backwards.
    counted = torch.where(later.any(dim=0), later, pairs.believed & (pairs.frames_from_anchor < 0))
    shares = survival_shares(errors <= SURVIVAL_METERS, pairs.frames_from_anchor, counted)
    shares = shares[~shares.isnan()]
    if not len(shares):
        return undefined(SURVIVAL.name, 0, "no track is known beside its anchor", "median scale")
    return Score(SURVIVAL.name, float(shares.mean()), len(shares), len(pairs.anchors), "median scale")


def _visibility_accuracy(pairs: TrackPairs) -> Score:
    counted = pairs.believed & (pairs.frames_from_anchor != 0)
    total = int(counted.sum())
    if not total:
        return undefined(VISIBILITY.name, 0, "no track is known beside its anchor")
    is_right = pairs.found & ((pairs.predicted_visibility > 0.5) == pairs.true_visibility)
    return Score(VISIBILITY.name, float(is_right[counted].double().mean()), total, total)


def _average_jaccard(pairs: TrackPairs, errors: Tensor) -> Score:
    total = int((pairs.believed & pairs.true_visibility).sum())
    if not total:
        return undefined(AJ.name, 0, "no true track is visible", "median scale")
    said = pairs.predicted_visibility > 0.5
    values = [jaccard(errors <= meters, said, pairs.true_visibility, pairs.believed) for meters in METERS]
    return Score(AJ.name, sum(values) / len(values), total, total, "median scale")
