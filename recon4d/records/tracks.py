"""Tracks: 3D trajectories of points that pixels of anchor frames select, and 2D tracks through the images."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon4d.records.tensors import FrameIndex, TensorRecord, take


@dataclass(frozen=True, eq=False)
class Tracks(TensorRecord):
    """World positions over time of query points, each given by a pixel of an anchor frame.

    Dense tracks have one query for every pixel of the anchor frame, in row-major order.
    """

    points: Float[Tensor, "*batch anchor time query 3"]
    """World points at the time of each frame, in scene units."""
    visibility: Float[Tensor, "*batch anchor time query"]
    """Probability that the point is visible in the frame of that time."""
    confidence: Float[Tensor, "*batch anchor time query"]
    """Confidence of `points`; 0 where the position is unknown."""
    anchors: Int[Tensor, "*batch anchor"]
    """Index of each anchor frame in the scene; -1 if that frame was removed by slicing."""
    pixels: Float[Tensor, "*batch anchor query 2"]
    """Pixel coordinates (x, y) of the queries in the maps of the anchor frame."""

    def frames(self, index: FrameIndex) -> "Tracks":
        """Select frames and renumber `anchors` accordingly.

        Args:
            index: Frames to select: a slice or a sequence of indices; negative indices count from the end.

        Returns:
            Tracks at the times of the selected frames. Anchors whose frame is not selected become -1.
        """
        chosen = super().frames(index)
        kept = take(torch.arange(self.points.shape[-3], device=self.anchors.device), index, 0)
        is_anchor = self.anchors[..., None] == kept
        renumbered = torch.where(is_anchor.any(dim=-1), is_anchor.int().argmax(dim=-1), -1)
        return replace(chosen, anchors=renumbered.to(self.anchors.dtype))


@dataclass(frozen=True, eq=False)
class FeatureTracks(TensorRecord):
    """Image positions of tracked points in every frame."""

    pixels: Float[Tensor, "*batch time track 2"]
    """Pixel coordinates (x, y) in maps of the scene's size; meaningless where `visibility` is 0."""
    visibility: Float[Tensor, "*batch time track"]
    """Confidence in [0, 1] that the point is visible at `pixels`; 0 if it is occluded, lost or was not searched."""
