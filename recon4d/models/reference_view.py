"""Choice of the reference frame, whose camera is about the world frame, by the class tokens of all frames.

The strategies are those of Depth Anything 3.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.errors import UserError
from recon4d.records import full_precision

ReferenceView = Literal["first", "middle", "saddle_balanced", "saddle_sim_range"]
"""Strategy to choose the reference frame.

`first` and `middle` are positions in the clip. `saddle_balanced` chooses the frame that is the most average in
similarity to the others, norm and variance of its class token; `saddle_sim_range` the one whose similarities to the
others differ most.
"""

MIN_FRAMES = 3
"""Number of frames from which the reference frame is chosen; it is the first frame of shorter clips (as published)."""


def check_reference_view(name: str) -> ReferenceView:
    """Check that a strategy exists.

    Args:
        name: Name of a strategy.

    Returns:
        The same name.

    Raises:
        UserError: If there is no strategy with this name.
    """
    if name not in get_args(ReferenceView):
        raise UserError(f"unknown reference view {name!r}; wanted one of {', '.join(get_args(ReferenceView))}")
    return name  # pyright: ignore[reportReturnType]


def is_reference_frame(
    class_tokens: Float[Tensor, "batch time width"], strategy: ReferenceView
) -> Bool[Tensor, "batch time"]:
    """Mark the reference frame of each clip.

    Args:
        class_tokens: Class tokens of all frames; only their device and number matter for `first` and `middle`.
        strategy: How the frame is chosen. Clips of fewer than `MIN_FRAMES` frames have the first as reference.

    Returns:
        True for one frame of each clip.
    """
    frames = torch.arange(class_tokens.shape[1], device=class_tokens.device)
    return frames == reference_frame(class_tokens, strategy)[:, None]


def reference_frame(class_tokens: Float[Tensor, "batch time width"], strategy: ReferenceView) -> Int[Tensor, "batch"]:
    """Choose the reference frame of each clip.

    Args:
        class_tokens: Class tokens of all frames.
        strategy: How the frame is chosen.

    Returns:
        Indices of the frames.
    """
    batch, time = class_tokens.shape[:2]
    first = torch.zeros(batch, dtype=torch.long, device=class_tokens.device)
    if strategy == "first" or time < MIN_FRAMES:
        return first
    if strategy == "middle":
        return first + time // 2
    with torch.autocast(class_tokens.device.type, enabled=False):
        tokens = full_precision(class_tokens)
        unit = F.normalize(tokens, dim=-1)
        similarity = unit @ unit.transpose(-1, -2)
        if strategy == "saddle_balanced":
            return _most_average_frame(tokens, unit, similarity)
        return _widest_frame(similarity)


def _most_average_frame(tokens: Tensor, unit: Tensor, similarity: Tensor) -> Int[Tensor, "batch"]:
    """Return the frame whose three measures, each scaled to [0, 1] over the frames, are closest to 0.5 in sum."""
    mean_similarity = (similarity.sum(dim=-1) - 1) / (similarity.shape[-1] - 1)
    measures = torch.stack([mean_similarity, tokens.norm(dim=-1), unit.var(dim=-1)])
    low, high = measures.amin(dim=-1, keepdim=True), measures.amax(dim=-1, keepdim=True)
    scaled = (measures - low) / (high - low + 1e-8)
    return (scaled - 0.5).abs().sum(dim=0).argmin(dim=-1)


def _widest_frame(similarity: Tensor) -> Int[Tensor, "batch"]:
    """Return the frame with the widest range of similarities, in which that to itself counts as 0 (as published)."""
    others = similarity - torch.eye(similarity.shape[-1], dtype=similarity.dtype, device=similarity.device)
    return (others.amax(dim=-1) - others.amin(dim=-1)).argmax(dim=-1)
