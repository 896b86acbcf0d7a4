"""Video depth protocol of MonST3R and CUT3R: one scale, or one scale and shift, per sequence.

There are three differences from the published scripts. Predictions are resized by `pair_with_truth` with bilinear
interpolation of known pixels, instead of `cv2.INTER_CUBIC`. Sums are computed in float64, instead of float32. Pixels
without a prediction are excluded, and `count` and `total` of a score state their number; the scripts require dense
predictions.
"""

import math

from torch import Tensor

from recon4d.eval.alignment.depth import DepthAlignment, l1_scale_and_shift_by_adam, l1_scale_weiszfeld
from recon4d.eval.metrics.depth import relative_error, root_mean_square, threshold_accuracy, valid_depths
from recon4d.eval.metrics.score import Metric, Score, length, scores, share, undefined
from recon4d.eval.metrics.units import unit_of
from recon4d.records import Scene

MIN_DEPTH = 1e-5
"""Lower bound of predicted depths in ratios, in the unit of the truth (published scripts)."""

_SCALE = "after one scale per sequence from ten Weiszfeld iterations (MonST3R, CUT3R)"
_SCALE_SHIFT = "after one scale and shift per sequence from 1000 steps of Adam (MonST3R, CUT3R)"
_RATIO = f"Share of max(P / G, G / P) < 1.25, with P clamped to at least {MIN_DEPTH:g},"


@scores(
    "Published protocols",
    Metric("video_depth_abs_rel_scale", "ratio", "lower", f"Mean of |P - G| / G {_SCALE}.", is_pooled=True),
    share("video_depth_delta_1_scale", f"{_RATIO} {_SCALE}.", is_pooled=True),
    length("video_depth_rmse_scale", f"Root mean square of P - G {_SCALE}.", is_pooled=True),
    Metric("video_depth_abs_rel_scale_shift", "ratio", "lower", f"Mean of |P - G| / G {_SCALE_SHIFT}.", is_pooled=True),
    share("video_depth_delta_1_scale_shift", f"{_RATIO} {_SCALE_SHIFT}.", is_pooled=True),
    protocol="video-depth",
)
def video_depth_scores(prediction: Scene, truth: Scene, max_depth: float | None) -> tuple[Score, ...]:
    """Score the predicted depth by the published video depth protocol.

    Only pixels with a known true depth below `max_depth` count, and aligned predictions are clipped to it. The `count`
    of a score is the number of these pixels with a prediction, its `total` the number of all of them. The scores are
    undefined if no such pixel has a prediction, or if the mean or median predicted depth is not above 0.

    Args:
        prediction: Predicted scene, after `pair_with_truth` and without alignment.
        truth: True scene.
        max_depth: Upper bound of the depth in meters (in the unit of the truth if its length is unknown); None for no
            bound. The published values are 70 for Sintel and Bonn and None for KITTI.

    Returns:
        The scores of `video_depth_scores.metrics`, in their order; empty if no pixel counts.

    Raises:
        ValueError: If `max_depth` is not above 0, or if known depths of the truth are not finite and above 0.
    """
    if max_depth is not None and not max_depth > 0:
        raise ValueError(f"max_depth must be above 0 or None, given {max_depth}")
    meters, unit_note = unit_of(truth)
    true_depths = truth.depths.double() * meters
    far = math.inf if max_depth is None else max_depth
    is_true = valid_depths(truth) & (true_depths < far)
    is_known = is_true & (prediction.depth_confidence > 0)
    total, count = int(is_true.sum()), int(is_known.sum())
    if not total:
        return ()
    names = [metric.name for metric in video_depth_scores.metrics]
    if not count:
        note = "the prediction has no depth at pixels with known true depth"
        return tuple(undefined(name, total, note) for name in names)

    # The prediction stays in its own unit: both iterations stop early, so their results depend on the unit.
    predicted, true = prediction.depths[is_known].double(), true_depths[is_known]
    if not (predicted.mean() > 0 and predicted.median() > 0):
        note = f"no scale: predicted depths have mean {float(predicted.mean()):g}, median {float(predicted.median()):g}"
        return tuple(undefined(name, total, note) for name in names)

    scale, line = l1_scale_weiszfeld(predicted, true), l1_scale_and_shift_by_adam(predicted, true)
    scaled, shifted = _aligned(predicted, scale, far), _aligned(predicted, line, far)
    return (
        Score(names[0], float(relative_error(scaled, true)), count, total, scale.name),
        Score(names[1], float(_delta_1(scaled, true)), count, total, scale.name),
        Score(names[2], float(root_mean_square(scaled - true)), count, total, scale.name, unit_note),
        Score(names[3], float(relative_error(shifted, true)), count, total, line.name),
        Score(names[4], float(_delta_1(shifted, true)), count, total, line.name),
    )


def _aligned(predicted: Tensor, alignment: DepthAlignment, far: float) -> Tensor:
    return alignment.apply(predicted).clamp(max=far)


def _delta_1(predicted: Tensor, true: Tensor) -> Tensor:
    return threshold_accuracy(predicted.clamp(min=MIN_DEPTH), true, 1.25)
