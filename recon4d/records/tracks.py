"""Where points that are seen in anchor frames are at every time."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.records.tensors import FrameIndex, TensorRecord, take


@dataclass(frozen=True, eq=False)
class Tracks(TensorRecord):
    """World positions over time of points given by a pixel in an anchor frame, sparse or one for every pixel.

    `visible` is the probability that the point is seen at that time. `confidence` is 0 where the position is
    unknown. `anchors` are frame numbers of the scene (-1: the anchor frame was sliced away); `pixels` are (x, y) in
    the anchor frame's maps. Dense tracks hold one query for every pixel of the anchor, row by row.
    """

    points: Float[Tensor, "*batch anchor time query 3"]
    visibility: Float[Tensor, "*batch anchor time query"]
    confidence: Float[Tensor, "*batch anchor time query"]
    anchors: Int[Tensor, "*batch anchor"]
    pixels: Float[Tensor, "*batch anchor query 2"]

    def frames(self, index: FrameIndex) -> "Tracks":
        """The tracks at the frames `index`; `anchors` are renumbered with them."""
        chosen = super().frames(index)
        kept = take(torch.arange(self.points.shape[-3], device=self.anchors.device), index, 0)
        is_anchor = self.anchors[..., None] == kept
        renumbered = torch.where(is_anchor.any(dim=-1), is_anchor.int().argmax(dim=-1), -1)
        return replace(chosen, anchors=renumbered.to(self.anchors.dtype))
