"""From clips to a benchmark: one value for a metric of a method, how sure it is, and what it leaves out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from recon4d.eval.metrics.score import Metric, Score
from recon4d.eval.scoring import METRICS, NO_PREDICTION, ClipResult

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """The value of a metric for a method over a benchmark; NaN where it is defined on no clip.

    `low` and `high` bound 95 % of what resampled sets of clips give (bootstrap, Efron 1979; seeded). `num_measured` of
    `num_clips` clips have a value, of which `num_worst` are the worst value of a clip without a prediction. `count` of
    `total` pairs, pixels or points were measured.
    """

    method: str
    metric: Metric
    value: float
    low: float
    high: float
    num_clips: int
    num_measured: int
    num_worst: int
    count: int
    total: int
    alignment: str


def summarize(results: Sequence[ClipResult]) -> tuple[Summary, ...]:
    """One summary for each method and metric that any clip's truth can tell, methods in the order they come in."""
    methods = list(dict.fromkeys(result.method for result in results))
    summaries = []
    for metric in METRICS.values():
        for method in methods:
            found = [result.score(metric.name) for result in results if result.method == method]
            scores = [score for score in found if score is not None]
            if scores:
                summaries.append(_summarize(method, metric, scores))
    return tuple(summaries)


def _summarize(method: str, metric: Metric, scores: list[Score]) -> Summary:
    measured = [score for score in scores if not math.isnan(score.value)]
    if len(measured) < len(scores) and all(score.note == NO_PREDICTION for score in measured):
        # The method does not answer this even where it succeeds: failures alone make no mean.
        measured = []
    value = low = high = math.nan
    if measured:
        values = np.array([score.value for score in measured])
        # A clip of worst value measured nothing, and must still weigh.
        weights = np.array([max(score.count, 1) if metric.is_pooled else 1 for score in measured], dtype=np.float64)
        value = float(np.average(values, weights=weights))
        low, high = bootstrap_interval(values, weights)
    return Summary(
        method=method,
        metric=metric,
        value=value,
        low=low,
        high=high,
        num_clips=len(scores),
        num_measured=len(measured),
        num_worst=sum(score.note == NO_PREDICTION for score in measured),
        count=sum(score.count for score in scores),
        total=sum(score.total for score in scores),
        alignment=", ".join(dict.fromkeys(score.alignment for score in scores)),
    )


def bootstrap_interval(
    values: Float64[np.ndarray, "clips"], weights: Float64[np.ndarray, "clips"], seed: int = 0
) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the weighted mean over clips drawn with replacement; NaN for infinite ones."""
    if not np.isfinite(values).all():
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    means = (weights[draws] * values[draws]).sum(axis=1) / weights[draws].sum(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
