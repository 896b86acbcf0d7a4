"""Depth metrics after one scale per clip: relative, absolute and logarithmic errors, threshold accuracy and coverage.

The formulas are those of Eigen et al. (2014). All pixels of a clip are aligned together and averaged together, unlike
in the published protocol, which is in `recon4d.eval.protocols.video_depth`. P is the predicted and G the true depth.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.alignment.depth import l1_scale_and_shift, median_scale
from recon4d.eval.metrics.score import Metric, Score, length, scores, share, undefined
from recon4d.eval.metrics.units import unit_of
from recon4d.records import Scene

MIN_DEPTH_SHARE = 1e-5
"""Lower bound of predicted depths in ratios and logarithms, as a share of the clip's median true depth. Hand-tuned."""

_MEDIAN = "after one median scale per clip, over pixels known in both prediction and truth"
_CLAMPED = f"P is clamped to at least {MIN_DEPTH_SHARE:g} of the clip's median true depth"


def relative_error(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Compute the mean of |P - G| / G.

    Args:
        predicted: Predicted depths P.
        true: True depths G, above 0.

    Returns:
        Mean relative error, a scalar.
    """
    return ((predicted - true).abs() / true).mean()


def _squared_relative_error(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Return the mean of (P - G)^2 / G, in the unit of the depths."""
    return ((predicted - true).square() / true).mean()


def root_mean_square(errors: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Compute the root mean square.

    Args:
        errors: Errors, at least one.

    Returns:
        Root mean square in the unit of the errors, a scalar.
    """
    return errors.square().mean().sqrt()


def threshold_accuracy(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"], factor: float) -> Float[Tensor, ""]:
    """Compute the share of pixels with max(P / G, G / P) < `factor`.

    Args:
        predicted: Predicted depths P. They must be above 0, because a negative ratio is below any factor.
        true: True depths G, above 0.
        factor: Threshold of the ratio, above 1.

    Returns:
        Share of pixels, a scalar in float64.
    """
    return (torch.maximum(predicted / true, true / predicted) < factor).double().mean()


def _clamp_depths(predicted: Float[Tensor, "n"], true: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Clamp predicted depths to at least `MIN_DEPTH_SHARE` times the median true depth."""
    return predicted.clamp(min=MIN_DEPTH_SHARE * float(true.median()))


_AFTER_SCALE: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("abs_rel", relative_error),
    ("sq_rel", _squared_relative_error),
    ("rmse", lambda p, g: root_mean_square(p - g)),
    ("log_rmse", lambda p, g: root_mean_square(_clamp_depths(p, g).log() - g.log())),
    ("delta_1", lambda p, g: threshold_accuracy(_clamp_depths(p, g), g, 1.25)),
    ("delta_2", lambda p, g: threshold_accuracy(_clamp_depths(p, g), g, 1.25**2)),
    ("delta_3", lambda p, g: threshold_accuracy(_clamp_depths(p, g), g, 1.25**3)),
)


@scores(
    "Depth",
    Metric("abs_rel", "ratio", "lower", f"Mean of |P - G| / G {_MEDIAN}.", is_headline=True),
    length("sq_rel", f"Mean of (P - G)^2 / G {_MEDIAN}."),
    length("rmse", f"Root mean square of P - G {_MEDIAN}."),
    Metric("log_rmse", "log", "lower", f"Root mean square of ln P - ln G {_MEDIAN}. {_CLAMPED}.", skips="pixels"),
    share("delta_1", f"Share of max(P / G, G / P) < 1.25 {_MEDIAN}. {_CLAMPED}.", is_headline=True),
    share("delta_2", f"Share of max(P / G, G / P) < 1.25^2 {_MEDIAN}. {_CLAMPED}."),
    share("delta_3", f"Share of max(P / G, G / P) < 1.25^3 {_MEDIAN}. {_CLAMPED}."),
    Metric(
        "abs_rel_scale_shift",
        "ratio",
        "lower",
        "Mean of |P - G| / G after one scale and shift per clip that minimize the sum of |P - G|, over pixels known in "
        f"both prediction and truth. {_CLAMPED}.",
    ),
    share("depth_coverage", "Share of pixels with known true depth at which P is known."),
    skips="pixels",
)
def depth_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """Score the predicted depth.

    The `count` of a score is the number of pixels known in both scenes (for the coverage: in the truth), its `total`
    the number of pixels known in the truth. Lengths are in meters if the truth's unit is known. If the prediction has
    no depth at these pixels, the coverage is 0 and the other scores are undefined. If its median depth is not above 0,
    the scores that need a median scale are undefined.

    Args:
        prediction: Predicted scene, after `pair_with_truth` and without alignment.
        truth: True scene.

    Returns:
        The scores of `depth_scores.metrics`, in their order; empty if the truth has no known depth.

    Raises:
        ValueError: If known depths of the truth are not finite and above 0.
    """
    is_true = valid_depths(truth)
    is_known = is_true & (prediction.depth_confidence > 0)
    total, count = int(is_true.sum()), int(is_known.sum())
    if not total:
        return ()
    coverage = Score("depth_coverage", count / total, total, total)
    if not count:
        note = "the prediction has no depth at pixels with known true depth"
        return (*(undefined(metric.name, total, note) for metric in depth_scores.metrics[:-1]), coverage)

    meters, unit_note = unit_of(truth)
    predicted, true = prediction.depths[is_known].double(), truth.depths[is_known].double() * meters
    after_scale = _scores_after_median_scale(predicted, true, total, unit_note)
    line = l1_scale_and_shift(predicted, true)
    error = float(relative_error(_clamp_depths(line.apply(predicted), true), true))
    return (*after_scale, Score("abs_rel_scale_shift", error, count, total, line.name), coverage)


def _scores_after_median_scale(predicted: Tensor, true: Tensor, total: int, unit_note: str) -> tuple[Score, ...]:
    """Return the scores that need a median scale, for depths in meters or in the unit of the truth."""
    median = float(predicted.median())
    if not median > 0:
        note = f"no scale: the median predicted depth is {median:g}, not above 0"
        return tuple(undefined(name, total, note, "median scale") for name, _ in _AFTER_SCALE)
    scale = median_scale(predicted, true)
    scaled = scale.apply(predicted)
    in_meters = {metric.name for metric in depth_scores.metrics if metric.unit == "m"}
    return tuple(
        Score(name, float(compute(scaled, true)), len(true), total, scale.name, unit_note if name in in_meters else "")
        for name, compute in _AFTER_SCALE
    )


def valid_depths(truth: Scene) -> Bool[Tensor, "time height width"]:
    """Find the pixels with known true depth.

    Args:
        truth: True scene without batch axes.

    Returns:
        True where the confidence of the depth is above 0.

    Raises:
        ValueError: If such a depth is not finite and above 0.
    """
    is_known = truth.depth_confidence > 0
    is_wrong = is_known & ~(truth.depths.isfinite() & (truth.depths > 0))
    if is_wrong.any():
        raise ValueError(f"{int(is_wrong.sum())} true depths with a confidence above 0 are not finite and above 0")
    return is_known
