"""Metrics of the dynamic mask: overlap with the true mask over the whole clip and per frame.

Only pixels with known true dynamic probability count. A pixel is dynamic if its probability is above one half. Pixels
that the prediction leaves unknown count as static, and a note states their number. Mean and recall over frames follow
DAVIS (JM and JR; Perazzi et al. 2016), with a single mask of all dynamic objects; frames without dynamic pixels in the
truth are skipped.
"""

from dataclasses import replace

from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.eval.metrics.score import Score, scores, share, undefined
from recon4d.records import Scene

RECALL_THRESHOLD = 0.5
"""Intersection over union above which the mask of a frame counts as found (recall of DAVIS)."""


def intersection_over_union(
    predicted: Bool[Tensor, "*batch n"], true: Bool[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    """Compute the intersection over union of masks along the last axis.

    Args:
        predicted: Predicted masks.
        true: True masks.

    Returns:
        Values in float64; NaN if both masks are empty.
    """
    return (predicted & true).sum(dim=-1).double() / (predicted | true).sum(dim=-1)


@scores(
    "Dynamic mask",
    share(
        "moving_iou",
        "Intersection over union of the dynamic masks, over all frames together. Pixels without a prediction count as "
        "static.",
        is_headline=True,
    ),
    share(
        "moving_iou_frames",
        "Mean intersection over union of the dynamic masks over frames with dynamic pixels in the truth (JM of DAVIS).",
    ),
    share(
        "moving_recall_frames",
        "Share of frames with dynamic pixels in the truth whose intersection over union is above 0.5 (JR of DAVIS).",
    ),
    share(
        "moving_accuracy",
        "Share of pixels correctly classified as dynamic or static. Pixels without a prediction count as static.",
    ),
)
def dynamic_mask_scores(prediction: Scene, truth: Scene) -> tuple[Score, ...]:
    """Score the predicted dynamic mask.

    Args:
        prediction: Predicted scene, after `pair_with_truth`.
        truth: True scene.

    Returns:
        The scores of `dynamic_mask_scores.metrics`, in their order; empty if the truth has no dynamic probabilities.
        All are undefined if the prediction has none at the pixels known in the truth.
    """
    is_known = truth.dynamic.isfinite()
    total = int(is_known.sum())
    if not total:
        return ()
    missing = int((is_known & ~prediction.dynamic.isfinite()).sum())
    if missing == total:
        note = "the prediction has no dynamic mask"
        return tuple(undefined(metric.name, total, note) for metric in dynamic_mask_scores.metrics)
    predicted, true = (scene.is_dynamic & is_known for scene in (prediction, truth))
    found = (
        _clip_score(predicted, true, total),
        *_frame_scores(predicted.flatten(1), true.flatten(1)),
        Score("moving_accuracy", 1 - int((predicted != true).sum()) / total, total, total),
    )
    if not missing:
        return found
    note = f"{missing} of {total} pixels have no predicted dynamic probability and count as static"
    return tuple(replace(score, note=f"{score.note}; {note}" if score.note else note) for score in found)


def _clip_score(predicted: Tensor, true: Tensor, total: int) -> Score:
    if not (predicted | true).any():
        return undefined("moving_iou", total, "neither prediction nor truth has dynamic pixels")
    return Score("moving_iou", float(intersection_over_union(predicted.flatten(), true.flatten())), total, total)


def _frame_scores(predicted: Tensor, true: Tensor) -> tuple[Score, Score]:
    """Return mean and recall over frames, for masks of shape (time, pixel)."""
    has_motion = true.any(dim=-1)
    count = int(has_motion.sum())
    if not count:
        note = "the truth has no dynamic pixels"
        return undefined("moving_iou_frames", 0, note), undefined("moving_recall_frames", 0, note)
    overlaps = intersection_over_union(predicted[has_motion], true[has_motion])
    return (
        Score("moving_iou_frames", float(overlaps.mean()), count, count),
        Score("moving_recall_frames", float((overlaps > RECALL_THRESHOLD).double().mean()), count, count),
    )
