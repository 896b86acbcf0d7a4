"""Whether pixels that move in the world are found: overlap with the true mask, over the clip and frame by frame.

Only pixels count of which the truth says whether they move. A pixel moves where its probability is above one half;
where the prediction says nothing it does not move, and the note says of how many pixels that is. Mean and recall over
frames are DAVIS's JM and JR (Perazzi et al. 2016), of the one mask of all that moves; frames in which nothing truly
moves are left out.
"""

from dataclasses import replace

from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.metrics.score import Metric, Score, undefined
from recon4d.records import Scene

IS_MOVING = 0.5
IS_FOUND = 0.5
"""A frame's mask is found where its overlap is above this (DAVIS's recall)."""

MOVING_METRICS: tuple[Metric, ...] = (
    Metric(
        "moving_iou",
        "share",
        "higher",
        "Pixels that move in prediction and truth over pixels that move in either, over all frames together.",
        worst=0.0,
    ),
    Metric(
        "moving_iou_frames",
        "share",
        "higher",
        "Mean over frames in which something truly moves of intersection over union of moving pixels (DAVIS's JM).",
        worst=0.0,
    ),
    Metric(
        "moving_recall_frames",
        "share",
        "higher",
        "Share of the frames in which something truly moves whose intersection over union is above 0.5 (DAVIS's JR).",
        worst=0.0,
    ),
    Metric(
        "moving_accuracy",
        "share",
        "higher",
        "Share of pixels of which it is told rightly whether they move; what is not told counts as not moving.",
        worst=0.0,
    ),
)


def is_dynamic(moving: Float[Tensor, "time height width"]) -> Bool[Tensor, "time height width"]:
    """Where the probability of moving is above one half; NaN is not."""
    return moving > IS_MOVING


def intersection_over_union(
    predicted: Bool[Tensor, "*batch n"], true: Bool[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    """|A and B| / |A or B| along the last axis, in float64; NaN where nothing moves in either."""
    return (predicted & true).sum(dim=-1).double() / (predicted | true).sum(dim=-1)


def dynamic_mask_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """The scores of `MOVING_METRICS` of paired scenes, in their order; none where the truth tells nothing.

    Undefined where the prediction tells nothing of the pixels that the truth tells of.
    """
    told = truth.dynamic.isfinite()
    total = int(told.sum())
    if not total:
        return ()
    untold = int((told & ~prediction.dynamic.isfinite()).sum())
    if untold == total:
        return tuple(undefined(metric.name, total, "the prediction tells nothing") for metric in MOVING_METRICS)
    predicted, true = (is_dynamic(scene.dynamic) & told for scene in (prediction, truth))
    scores = (
        _clip_score(predicted, true, total),
        *_frame_scores(predicted.flatten(1), true.flatten(1)),
        Score("moving_accuracy", 1 - int((predicted != true).sum()) / total, total, total),
    )
    if not untold:
        return scores
    note = f"{untold} of {total} pixels are not told by the prediction and count as not moving"
    return tuple(replace(score, note=f"{score.note}; {note}" if score.note else note) for score in scores)


def _clip_score(predicted: Tensor, true: Tensor, total: int) -> Score:
    if not (predicted | true).any():
        return undefined("moving_iou", total, "nothing moves, neither in the prediction nor in the truth")
    return Score("moving_iou", float(intersection_over_union(predicted.flatten(), true.flatten())), total, total)


def _frame_scores(predicted: Tensor, true: Tensor) -> tuple[Score, Score]:
    with_motion = true.any(dim=-1)
    count = int(with_motion.sum())
    if not count:
        note = "nothing moves in the truth"
        return undefined("moving_iou_frames", 0, note), undefined("moving_recall_frames", 0, note)
    overlaps = intersection_over_union(predicted[with_motion], true[with_motion])
    return (
        Score("moving_iou_frames", float(overlaps.mean()), count, count),
        Score("moving_recall_frames", float((overlaps > IS_FOUND).double().mean()), count, count),
    )
