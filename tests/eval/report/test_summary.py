"""Summaries by hand, and their bootstrap intervals."""

import math

import numpy as np
import pytest
from jaxtyping import Float

from recon4d.eval import ClipResult, summarize
from recon4d.eval.metrics.score import Score, undefined
from recon4d.eval.report.summary import bootstrap_interval


def result_of(clip: str, *scores: Score) -> ClipResult:
    return ClipResult("m", clip, 8, "ok", "", scores)


def test_a_summary_by_hand() -> None:
    """abs_rel is a mean over clips; moving_epe is pooled: (1 x 10 + 4 x 30) / 40; undefined clips are skipped."""
    results = [
        result_of("a", Score("abs_rel", 0.1, 50, 100, "median scale"), Score("moving_epe", 1.0, 10, 10)),
        result_of("b", Score("abs_rel", 0.3, 5, 100, "median scale"), Score("moving_epe", 4.0, 30, 30)),
        result_of("c", undefined("abs_rel", 100, "no depth"), undefined("moving_epe", 0, "nothing moves")),
    ]
    summaries = {summary.metric.name: summary for summary in summarize(results)}
    assert set(summaries) == {"abs_rel", "moving_epe"}
    assert summaries["abs_rel"].value == pytest.approx(0.2)
    assert summaries["moving_epe"].value == pytest.approx(3.25)
    assert (summaries["abs_rel"].num_clips, summaries["abs_rel"].num_measured) == (3, 2)
    assert (summaries["abs_rel"].count, summaries["abs_rel"].total) == (55, 300)
    assert summaries["abs_rel"].alignment == "median scale, none"
    assert summaries["abs_rel"].low == pytest.approx(0.1)
    assert summaries["abs_rel"].high == pytest.approx(0.3)


def test_failures_alone_make_no_mean() -> None:
    """A method without tracks has no track score, even if some clips failed; one that always fails scores 0."""
    failed = Score("apd3d", 0.0, 0, 10, note="no prediction")
    without_tracks = undefined("apd3d", 10, "no tracks were predicted")
    (sometimes,) = summarize([result_of("a", failed), result_of("b", without_tracks)])
    assert math.isnan(sometimes.value)
    assert (sometimes.num_clips, sometimes.num_measured, sometimes.num_worst) == (2, 0, 0)
    (always,) = summarize([result_of("a", failed), result_of("b", failed)])
    assert (always.value, always.num_worst) == (0.0, 2)


def test_the_interval_is_that_of_a_resampled_mean() -> None:
    """For many clips, the interval is about 1.96 standard errors on each side (central limit theorem)."""
    random = np.random.default_rng(5)
    values: Float[np.ndarray, " n"] = random.normal(3.0, 1.0, 400)
    low, high = bootstrap_interval(values, np.ones(400))
    standard_error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.15 * standard_error)
    assert high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.15 * standard_error)
    assert bootstrap_interval(values, np.ones(400)) == (low, high)
    assert bootstrap_interval(np.full(9, 2.0), np.arange(1.0, 10.0)) == (2.0, 2.0)
    heavy = np.array([1.0] + 20 * [1e-9])
    assert bootstrap_interval(np.array([5.0] + 20 * [0.0]), heavy)[1] == pytest.approx(5.0, abs=1e-6)
