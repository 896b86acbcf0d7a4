"""Epipolar filter: pairs of cells off the epipolar lines of two cameras are excluded before matching."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon4d.geometry import fundamental_matrices
from recon4d.records import Cameras, full_precision

MIN_LINE_NORM = 1e-3
"""Smallest norm of a line relative to its terms; below, the query is at the epipole and has no line. Hand-tuned."""


@dataclass(frozen=True)
class TwoViewFilter:
    """Epipolar constraint between the frames of a batch of clips; it fits static points."""

    fundamental: Float[Tensor, "batch time time 3 3"]
    """Fundamental matrices from query (first time axis) to target frames; NaN if unknown, which excludes nothing."""
    width: float
    """Largest distance of the center of a target cell from the epipolar line of the query cell's center, in pixels."""
    unconstrained: Bool[Tensor, "batch time cells"] | None = None
    """Query cells that may match anywhere, such as those of moving objects; None for none."""

    @classmethod
    def from_cameras(
        cls,
        cameras: Cameras,
        width: float,
        fallback: Cameras | None = None,
        unconstrained: Bool[Tensor, "batch time cells"] | None = None,
    ) -> "TwoViewFilter":
        """Build the filter of cameras, without gradient.

        Args:
            cameras: Cameras of all frames, NaN if unknown.
            width: Largest distance of a target cell from the line in pixels.
            fallback: Cameras for pairs of which one is unknown, in any other world frame; None for none.
            unconstrained: Query cells that may match anywhere; None for none.

        Returns:
            The filter.
        """
        fundamental = _fundamental(cameras)
        if fallback is not None:
            is_known = torch.isfinite(fundamental).all(dim=(-1, -2), keepdim=True)
            fundamental = torch.where(is_known, fundamental, _fundamental(fallback))
        return cls(fundamental, width, unconstrained)

    def allowed(
        self,
        queries: Int[Tensor, " pair"],
        targets: Int[Tensor, " pair"],
        centers: Float[Tensor, "cells 2"],
    ) -> Bool[Tensor, "pair cells cells"]:
        """Find the pairs of cells that may match.

        Args:
            queries: Index of the query frame of each pair among the frames of all clips.
            targets: Index of the target frame of each pair, likewise.
            centers: Pixel coordinates (x, y) of the centers of the cells of a frame.

        Returns:
            Mask over query and target cells.
        """
        time = self.fundamental.shape[1]
        fundamental = self.fundamental[queries // time, queries % time, targets % time]
        allowed = two_view_mask(fundamental, centers, self.width)
        if self.unconstrained is not None:
            allowed = allowed | self.unconstrained.flatten(0, 1)[queries][..., None]
        return allowed


@torch.no_grad()
def two_view_mask(
    fundamental: Float[Tensor, "pair 3 3"], centers: Float[Tensor, "cells 2"], width: float
) -> Bool[Tensor, "pair cells cells"]:
    """Find the target cells near the epipolar line of each query cell.

    Args:
        fundamental: Fundamental matrices from query to target. Zero (no baseline) and NaN (unknown) exclude nothing.
        centers: Pixel coordinates (x, y) of the centers of the cells of a frame.
        width: Largest distance of the center of a target cell from the line in pixels.

    Returns:
        Mask over query and target cells. Query cells at the epipole have no line and may match anywhere.
    """
    with torch.autocast(centers.device.type, enabled=False):
        homogeneous = torch.cat([centers, torch.ones_like(centers[:, :1])], dim=-1).to(fundamental.dtype)
        lines = homogeneous @ fundamental.transpose(-1, -2)
        norm = lines[..., :2].norm(dim=-1, keepdim=True)
        terms = (homogeneous @ fundamental.abs().transpose(-1, -2))[..., :2].norm(dim=-1, keepdim=True)
        has_line = norm > MIN_LINE_NORM * terms  # false for NaN, too
        distance = ((lines / torch.where(has_line, norm, 1.0)) @ homogeneous.T).abs()
        return (distance <= width) | ~has_line


@torch.no_grad()
def _fundamental(cameras: Cameras) -> Tensor:
    with torch.autocast(cameras.intrinsics.device.type, enabled=False):
        return fundamental_matrices(full_precision(cameras.world_from_cam), full_precision(cameras.intrinsics))
