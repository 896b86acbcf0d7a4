"""Displayed points: those of each time and those of the static map, within a budget and in bands of confidence."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from recon4d.records import Scene
from recon4d.viewer.selection import (
    BANDS,
    band_map,
    displayable_pixels,
)
from recon4d.viewer.thinning import frame_limit, thin_by_voxels, thin_frame

GRAY = 170
"""Gray value of points without frames. Hand-tuned."""


@dataclass(frozen=True)
class Cloud:
    """Selected pixels of a scene that form one entity of the recording."""

    band: str
    """Name of the confidence band, one of `BANDS`."""
    scene: Scene
    """The scene."""
    images: UInt8[Tensor, "time 3 height width"]
    """Frames at the size of the maps."""
    selected: Bool[Tensor, "time height width"]
    """Pixels of the cloud."""

    def points(self, frame: int) -> Float[Tensor, "n 3"]:
        """Unproject the selected pixels of a frame.

        Args:
            frame: Index of the frame.

        Returns:
            World points from depth and camera.
        """
        # One frame at a time bounds memory; most points of the clip are not selected.
        return self.scene.frames([frame]).points_from_depth[0][self.selected[frame]].float()

    def colors(self, frame: int) -> UInt8[Tensor, "n 3"]:
        """Return the colors of the selected pixels of a frame.

        Args:
            frame: Index of the frame.

        Returns:
            RGB values.
        """
        return self.images[frame].movedim(0, -1)[self.selected[frame]]


@dataclass(frozen=True)
class PointBudget:
    """Largest numbers of displayed points."""

    total: int
    """Points of all times and of the static map together. The points of the times take half of it at most."""
    per_frame: int
    """Points of one time."""


@dataclass(frozen=True)
class Clouds:
    """All displayed points of a scene."""

    at_time: tuple[Cloud, ...]
    """Points of the current time, one cloud per confidence band."""
    static: tuple[Cloud, ...]
    """Points of the static map, merged over all times, one cloud per confidence band."""


def select_clouds(
    scene: Scene,
    images: UInt8[Tensor, "time 3 height width"] | None,
    budget: PointBudget,
    at_time: Bool[Tensor, "time height width"] | None = None,
) -> Clouds:
    """Select the points to display, split into bands of confidence.

    The static map contains the pixels that are not dynamic, merged over all times (`thin_by_voxels`). Bands without
    pixels are omitted; a scene without known depth has no clouds.

    Args:
        scene: The scene.
        images: Frames at the size of the maps; None for gray points.
        budget: Largest numbers of points.
        at_time: Pixels of the points of each time; None for all pixels.

    Returns:
        The clouds.
    """
    displayable = displayable_pixels(scene)
    bands = band_map(scene.depth_confidence, displayable)
    if images is None:
        images = torch.full((1, 1, 1, 1), GRAY, dtype=torch.uint8).expand(scene.num_frames, 3, *scene.size)
    untracked = replace(scene, tracks=None)
    current = displayable if at_time is None else displayable & at_time
    limit = frame_limit(current.sum(dim=(1, 2)), budget.per_frame, budget.total // 2)
    current = torch.stack(
        [thin_frame(mask, confidence, limit) for mask, confidence in zip(current, scene.depth_confidence, strict=True)]
    )
    static_limit = max(1, budget.total - int(current.sum()))
    static = thin_by_voxels(untracked, displayable & ~scene.is_dynamic, static_limit)
    return Clouds(
        at_time=tuple(_by_band(untracked, images, current, bands)),
        static=tuple(_by_band(untracked, images, static, bands)),
    )


def _by_band(
    scene: Scene,
    images: UInt8[Tensor, "time 3 height width"],
    selected: Bool[Tensor, "time height width"],
    bands: Int[Tensor, "time height width"],
) -> Iterator[Cloud]:
    for number, band in enumerate(BANDS):
        in_band = selected & (bands == number)
        if in_band.any():
            yield Cloud(band, scene, images, in_band)
