"""Summary of a metric over the clips of a benchmark: value, confidence interval and coverage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from recon4d.eval.metrics.score import Metric, Score
from recon4d.eval.scoring import METRICS, NO_PREDICTION, ClipResult

NUM_RESAMPLES = 2000
"""Number of bootstrap samples of the clips. Hand-tuned."""
CONFIDENCE = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True)
class Summary:
    """Value of a metric for a method over the clips of a benchmark."""

    method: str
    """Name of the method."""
    metric: Metric
    """The summarized metric."""
    value: float
    """Mean over clips, or over all measured items for a pooled metric; NaN if no clip defines it."""
    low: float
    """Lower bound of the 95 % interval of the bootstrap over clips (Efron 1979)."""
    high: float
    """Upper bound of the same interval."""
    num_clips: int
    """Clips whose ground truth defines the metric."""
    num_measured: int
    """Clips that contribute a value."""
    num_worst: int
    """Clips without a prediction that contribute the worst value; they are included in `num_measured`."""
    count: int
    """Measured frame pairs, pixels or points of all clips."""
    total: int
    """Frame pairs, pixels or points that the ground truth contains."""
    alignment: str
    """Alignments of the clips' scores, separated by commas."""


def summarize(results: Sequence[ClipResult]) -> tuple[Summary, ...]:
    """Summarize the scores of each method and metric over all clips.

    Args:
        results: Results of any number of methods and clips.

    Returns:
        One summary for each metric that the ground truth of any clip defines and for each method: metrics in the order
        of `METRICS`, methods in the order of `results`.
    """
    methods = list(dict.fromkeys(result.method for result in results))
    summaries = []
    for metric in METRICS.values():
        for method in methods:
            found = [result.score(metric.name) for result in results if result.method == method]
            scores = [score for score in found if score is not None]
            if scores:
                summaries.append(_summarize(method, metric, scores))
    return tuple(summaries)


def index_summaries(summaries: Sequence[Summary]) -> dict[tuple[str, str], Summary]:
    """Index summaries by the names of method and metric.

    Args:
        summaries: Summaries of any number of methods and metrics.

    Returns:
        Summaries by (method, metric).
    """
    return {(summary.method, summary.metric.name): summary for summary in summaries}


def _summarize(method: str, metric: Metric, scores: list[Score]) -> Summary:
    measured = [score for score in scores if not math.isnan(score.value)]
    if len(measured) < len(scores) and all(score.note == NO_PREDICTION for score in measured):
        # The method never predicts this quantity, even when it succeeds: a mean of failures would be misleading.
        measured = []
    value = low = high = math.nan
    if measured:
        values = np.array([score.value for score in measured])
        # A clip with the worst value has a count of 0 but must contribute.
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
    """Compute the bootstrap interval of a weighted mean over clips.

    Args:
        values: Value of each clip.
        weights: Weight of each clip.
        seed: Seed of the resampling.

    Returns:
        The 2.5th and 97.5th percentile of the weighted mean over clips that are drawn with replacement; NaN if any
        value is infinite.
    """
    if not np.isfinite(values).all():
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    means = (weights[draws] * values[draws]).sum(axis=1) / weights[draws].sum(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
