"""Best threshold of the dynamic mask, measured on scenes with ground truth.

A network trained with cross entropy predicts the probability that a pixel is dynamic. Few pixels are dynamic, so that
few probabilities exceed one half, and a threshold of one half misses most dynamic pixels. The threshold with the best
intersection over union is lower (Lipton et al. 2014).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.records import Scene

THRESHOLDS = torch.linspace(0.02, 0.98, 49)
"""Tested thresholds of the probability."""
MIN_DYNAMIC_FRACTION = 0.001
"""Smallest fraction of dynamic pixels of a clip; with fewer, the IoU depends on single pixels. Hand-tuned."""


@dataclass(frozen=True, eq=False)
class DynamicMaskIous:
    """Overlap of the predicted with the true dynamic mask of one clip, for each threshold."""

    ious: Float[Tensor, "threshold"]
    """Intersection over union for each of `THRESHOLDS`."""


def dynamic_mask_ious(prediction: Scene, truth: Scene) -> DynamicMaskIous | None:
    """Compute the IoU of the dynamic mask at every threshold.

    Args:
        prediction: Predicted scene with maps of the size of the true ones.
        truth: True scene.

    Returns:
        The IoUs; None if either scene has no dynamic probabilities, or too few pixels are dynamic.
    """
    is_known = prediction.dynamic.isfinite() & truth.dynamic.isfinite() & (truth.depth_confidence > 0)
    is_dynamic = truth.dynamic[is_known] > 0.5
    if not is_known.any() or is_dynamic.float().mean() < MIN_DYNAMIC_FRACTION:
        return None
    return DynamicMaskIous(_ious(prediction.dynamic[is_known], is_dynamic))


def best_threshold(clips: Sequence[DynamicMaskIous]) -> float | None:
    """Find the threshold with the highest mean IoU over clips.

    Args:
        clips: IoUs of each clip.

    Returns:
        One of `THRESHOLDS`; None if there are no clips.
    """
    if not clips:
        return None
    mean = torch.stack([clip.ious for clip in clips]).mean(dim=0)
    return float(THRESHOLDS[mean.argmax()])


def mean_iou_at(clips: Sequence[DynamicMaskIous], threshold: float) -> float:
    """Look up the mean IoU over clips at a threshold.

    Args:
        clips: IoUs of each clip, of at least one.
        threshold: Probability; the nearest of `THRESHOLDS` is used.

    Returns:
        The mean IoU.
    """
    return float(torch.stack([clip.ious for clip in clips])[:, (THRESHOLDS - threshold).abs().argmin()].mean())


def logit_shift(threshold: float) -> float:
    """Compute the shift of logits that moves a threshold to one half.

    Args:
        threshold: Probability between 0 and 1.

    Returns:
        Number to add to the logits.
    """
    return math.log((1 - threshold) / threshold)


def _ious(probability: Float[Tensor, "pixel"], is_dynamic: Bool[Tensor, "pixel"]) -> Float[Tensor, "threshold"]:
    def count_above(values: Tensor) -> Tensor:
        return len(values) - torch.searchsorted(values.sort().values, THRESHOLDS, right=True)

    both, predicted = count_above(probability[is_dynamic]), count_above(probability)
    return both / (predicted + is_dynamic.sum() - both)
