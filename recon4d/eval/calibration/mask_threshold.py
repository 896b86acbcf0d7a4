"""Where to cut a mask: the probability from which on a pixel had best be called moving.

A network that learned from cross entropy says how probable it is that a pixel moves. Few pixels do, so that hardly any
is more probable than not, and a mask of those above one half misses most of what moves. The mask that overlaps best
with the truth is cut lower (Lipton et al. 2014), where the worlds say.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.records import Scene

CUTS = torch.linspace(0.02, 0.98, 49)
LEAST_MOVING = 0.001
"""Of a clip's pixels: where fewer move the overlap is a matter of a few pixels."""


@dataclass(frozen=True, eq=False)
class DynamicMaskCounts:
    """The overlap of the mask with the truth in one clip, for each of `CUTS`."""

    overlaps: Float[Tensor, "cut"]


def dynamic_mask_counts(prediction: Scene, truth: Scene) -> DynamicMaskCounts | None:
    """The evidence of one scene with maps of the truth's size; None where either says nothing, or nothing moves."""
    known = prediction.dynamic.isfinite() & truth.dynamic.isfinite() & (truth.depth_confidence > 0)
    moves = truth.dynamic[known] > 0.5
    if not known.any() or moves.float().mean() < LEAST_MOVING:
        return None
    return DynamicMaskCounts(_overlaps(prediction.dynamic[known], moves))


def best_threshold(evidence: Sequence[DynamicMaskCounts]) -> float | None:
    """The cut with the best overlap (intersection over union), in the mean over clips; None without evidence."""
    if not evidence:
        return None
    mean = torch.stack([one.overlaps for one in evidence]).mean(dim=0)
    return float(CUTS[mean.argmax()])


def overlap_at(evidence: Sequence[DynamicMaskCounts], cut: float) -> float:
    """The mean overlap at one of `CUTS`, or the nearest."""
    return float(torch.stack([one.overlaps for one in evidence])[:, (CUTS - cut).abs().argmin()].mean())


def shift_to_half(cut: float) -> float:
    """What to add to logits so that the probability `cut` becomes one half."""
    return math.log((1 - cut) / cut)


def _overlaps(probability: Float[Tensor, "pixel"], moves: Bool[Tensor, "pixel"]) -> Float[Tensor, "cut"]:
    def above(values: Tensor) -> Tensor:
        return len(values) - torch.searchsorted(values.sort().values, CUTS, right=True)

    both, said = above(probability[moves]), above(probability)
    return both / (said + moves.sum() - both)
