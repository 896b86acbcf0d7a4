"""Depth against truth: one scale for each clip, then relative, absolute and logarithmic errors, and the share covered.

The formulas are those of Eigen et al. 2014; what they are over, and the alignment, are the project's own.
`recon4d.eval.protocols.video_depth` is the published protocol of the field.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.alignment.depth import l1_scale_and_shift, median_scale
from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.units import unit_of
from recon4d.records import Scene

MIN_SHARE = 1e-5
"""Where a ratio or a logarithm needs a depth above 0: this share of the clip's median true depth is the least."""

_MEDIAN = "after one median scale a clip, over the pixels known to both"
_FLOOR = f"predicted depths at least {MIN_SHARE:g} of the clip's median true depth"

DEPTH_METRICS: tuple[Metric, ...] = (
    Metric("abs_rel", "ratio", "lower", f"Mean of |P - G| / G {_MEDIAN}."),
    Metric("sq_rel", "m", "lower", f"Mean of (P - G)^2 / G {_MEDIAN}."),
    Metric("rmse", "m", "lower", f"Root mean square of P - G {_MEDIAN}."),
    Metric("log_rmse", "log", "lower", f"Root mean square of ln P - ln G {_MEDIAN}; {_FLOOR}."),
    Metric("delta_1", "share", "higher", f"Share of max(P / G, G / P) < 1.25 {_MEDIAN}; {_FLOOR}.", worst=0.0),
    Metric("delta_2", "share", "higher", f"Share of max(P / G, G / P) < 1.25^2 {_MEDIAN}; {_FLOOR}.", worst=0.0),
    Metric("delta_3", "share", "higher", f"Share of max(P / G, G / P) < 1.25^3 {_MEDIAN}; {_FLOOR}.", worst=0.0),
    Metric(
        "abs_rel_scale_shift",
        "ratio",
        "lower",
        "Mean of |P - G| / G after one scale and shift a clip of least sum |P - G|, over the pixels known to both; "
        f"{_FLOOR}.",
    ),
    Metric("depth_coverage", "share", "higher", "Share of pixels of known true depth where P is known.", worst=0.0),
)


def relative_error(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """The mean of |P - G| / G."""
    return ((predicted - true).abs() / true).mean()


def squared_relative_error(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """The mean of (P - G)^2 / G, a length."""
    return ((predicted - true).square() / true).mean()


def root_mean_square(errors: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """The root of the mean square."""
    return errors.square().mean().sqrt()


def share_within(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"], factor: float) -> Float[Tensor, ""]:
    """The share of pixels with max(P / G, G / P) < `factor`; depths must be above 0, as a negative P would pass."""
    return (torch.maximum(predicted / true, true / predicted) < factor).double().mean()


def floored(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Predicted depths, no smaller than `MIN_SHARE` of the median true depth: a floor in no unit."""
    return predicted.clamp(min=MIN_SHARE * float(true.median()))


_AFTER_SCALE: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("abs_rel", relative_error),
    ("sq_rel", squared_relative_error),
    ("rmse", lambda p, g: root_mean_square(p - g)),
    ("log_rmse", lambda p, g: root_mean_square(floored(p, g).log() - g.log())),
    ("delta_1", lambda p, g: share_within(floored(p, g), g, 1.25)),
    ("delta_2", lambda p, g: share_within(floored(p, g), g, 1.25**2)),
    ("delta_3", lambda p, g: share_within(floored(p, g), g, 1.25**3)),
)


def depth_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """Every score of `DEPTH_METRICS` for a prediction `paired` with its truth and not yet aligned.

    `count` is the number of pixels known to both (of coverage: to the truth), `total` of those known to the truth.
    Lengths are in meters where the truth's unit is known, else in the truth's unit, and `note` says so. A truth without
    any known depth has no scores. A prediction that knows none of its pixels is undefined but for its coverage, 0; one
    whose median depth there is not above 0 has no median scale and is undefined in what needs one.
    """
    known = known_depths(truth)
    is_believed = known & (prediction.depth_confidence > 0)
    total, count = int(known.sum()), int(is_believed.sum())
    if not total:
        return ()
    coverage = Score("depth_coverage", count / total, total, total)
    if not count:
        note = "the prediction knows no depth where the truth does"
        return (*(undefined(metric.name, total, note) for metric in DEPTH_METRICS[:-1]), coverage)

    meters, unit_note = unit_of(truth)
    predicted, true = prediction.depths[is_believed].double(), truth.depths[is_believed].double() * meters
    after_scale = _scores_after_median_scale(predicted, true, total, unit_note)
    line = l1_scale_and_shift(predicted, true)
    error = float(relative_error(floored(line.apply(predicted), true), true))
    return (*after_scale, Score("abs_rel_scale_shift", error, count, total, line.name), coverage)


def _scores_after_median_scale(predicted: Tensor, true: Tensor, total: int, unit_note: str) -> tuple[Score, ...]:
    middle = float(predicted.median())
    if not middle > 0:
        note = f"no scale: the median predicted depth is {middle:g}"
        return tuple(undefined(name, total, note, "median scale") for name, _ in _AFTER_SCALE)
    scale = median_scale(predicted, true)
    scaled = scale.apply(predicted)
    in_meters = {metric.name for metric in DEPTH_METRICS if metric.unit == "m"}
    return tuple(
        Score(name, float(of(scaled, true)), len(true), total, scale.name, unit_note if name in in_meters else "")
        for name, of in _AFTER_SCALE
    )


def known_depths(truth: Scene) -> Bool[Tensor, "time height width"]:
    """Where true depth is known. Raises ``ValueError`` where known depths are not above 0 and finite."""
    known = truth.depth_confidence > 0
    wrong = known & ~(truth.depths.isfinite() & (truth.depths > 0))
    if wrong.any():
        raise ValueError(f"the truth's depths are not finite and above 0 at {int(wrong.sum())} pixels said to be known")
    return known
