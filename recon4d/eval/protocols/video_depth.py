"""Video depth by the published protocol of MonST3R and CUT3R: one scale, or scale and shift, for each sequence.

It differs from the scripts in three ways: predictions come at the truth's size from `paired`, by bilinear means of
known pixels, where the scripts use cv2.INTER_CUBIC; sums are float64 where theirs are float32; and pixels at which the
prediction is not known are left out, which the scripts have no word for (`count` against `total` tells how many).
"""

import math

from torch import Tensor

from recon4d.eval.alignment.depth import DepthAlignment, l1_scale_and_shift_by_adam, l1_scale_weiszfeld
from recon4d.eval.metrics.depth import (
    known_depths,
    relative_error,
    root_mean_square,
    share_within,
)
from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.eval.metrics.units import unit_of
from recon4d.records import Scene

MIN_DEPTH = 1e-5
"""The published floor of predicted depths before ratios, in the unit of the truth."""

_SCALE = "after one scale a sequence by ten steps of Weiszfeld (MonST3R, CUT3R)"
_SCALE_SHIFT = "after one scale and shift a sequence by 1000 steps of Adam (MonST3R, CUT3R)"
_RATIO = f"Share of max(P / G, G / P) < 1.25, P at least {MIN_DEPTH:g},"

VIDEO_DEPTH_METRICS: tuple[Metric, ...] = (
    Metric("video_depth_abs_rel_scale", "ratio", "lower", f"Mean of |P - G| / G {_SCALE}.", is_pooled=True),
    Metric("video_depth_delta_1_scale", "share", "higher", f"{_RATIO} {_SCALE}.", worst=0.0, is_pooled=True),
    Metric("video_depth_rmse_scale", "m", "lower", f"Root mean square of P - G {_SCALE}.", is_pooled=True),
    Metric("video_depth_abs_rel_scale_shift", "ratio", "lower", f"Mean of |P - G| / G {_SCALE_SHIFT}.", is_pooled=True),
    Metric(
        "video_depth_delta_1_scale_shift", "share", "higher", f"{_RATIO} {_SCALE_SHIFT}.", worst=0.0, is_pooled=True
    ),
)


def video_depth_scores(prediction: Scene, truth: Scene, max_depth: float | None) -> tuple[Score, ...]:
    """Every score of `VIDEO_DEPTH_METRICS` for a prediction `paired` with its truth and not yet aligned.

    Over pixels of known true depth below `max_depth` (70 for Sintel and Bonn, None for KITTI; in meters where the
    truth's unit is known, else in its unit), at which the aligned prediction is clipped, too. `count` is the number of
    these pixels at which the prediction is known, `total` the number of all. A truth without any such pixel has no
    scores. A prediction that knows none of them, or whose mean or median depth there is not above 0, is undefined.
    """
    if max_depth is not None and not max_depth > 0:
        raise ValueError(f"a max_depth of {max_depth} leaves nothing; wanted one above 0, or None")
    meters, unit_note = unit_of(truth)
    true_depths = truth.depths.double() * meters
    far = math.inf if max_depth is None else max_depth
    is_measured = known_depths(truth) & (true_depths < far)
    is_believed = is_measured & (prediction.depth_confidence > 0)
    total, count = int(is_measured.sum()), int(is_believed.sum())
    if not total:
        return ()
    names = [metric.name for metric in VIDEO_DEPTH_METRICS]
    if not count:
        note = "the prediction knows no depth where the truth does"
        return tuple(undefined(name, total, note) for name in names)

    # As it was predicted: both iterations stop short, and where depends on the prediction's own unit.
    predicted, true = prediction.depths[is_believed].double(), true_depths[is_believed]
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
    return share_within(predicted.clamp(min=MIN_DEPTH), true, 1.25)
