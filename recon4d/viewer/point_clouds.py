"""The points that are shown: those of each time and those of the static map, under a name for each confidence."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from recon4d.geometry import subsample_mask
from recon4d.records import Scene
from recon4d.viewer.selection import (
    BANDS,
    band_map,
    is_dynamic,
    showable,
)

GRAY = 170
"""Color of points without frames."""


@dataclass(frozen=True)
class Cloud:
    """Chosen pixels of a scene, to be shown under one name."""

    band: str
    scene: Scene
    images: UInt8[Tensor, "time 3 height width"]
    chosen: Bool[Tensor, "time height width"]

    def points(self, frame: int) -> Float[Tensor, "n 3"]:
        """Where the chosen pixels of `frame` are in the world, from their depth and its camera."""
        # One frame at a time: the points of a whole clip would fill the memory before most are dropped.
        return self.scene.frames([frame]).points_from_depth[0][self.chosen[frame]].float()

    def colors(self, frame: int) -> UInt8[Tensor, "n 3"]:
        """Their RGB."""
        return self.images[frame].movedim(0, -1)[self.chosen[frame]]


@dataclass(frozen=True)
class Clouds:
    """All points of a scene: `at_time` has those of each time, `still` those of the map."""

    at_time: tuple[Cloud, ...]
    still: tuple[Cloud, ...]


def choose_clouds(scene: Scene, images: UInt8[Tensor, "time 3 height width"] | None, max_points: int) -> Clouds:
    """The points to show, at most `max_points` of all times together and as many of the map, by band of confidence.

    The map holds what does not move, of all times. Bands without a pixel are left out; a scene without any known
    depth has no cloud.
    """
    shown = showable(scene)
    bands = band_map(scene.depth_confidence, shown)
    if images is None:
        images = torch.full((1, 1, 1, 1), GRAY, dtype=torch.uint8).expand(scene.num_frames, 3, *scene.size)
    untracked = replace(scene, tracks=None)
    return Clouds(
        at_time=tuple(_by_band(untracked, images, subsample_mask(shown, max_points), bands)),
        still=tuple(_by_band(untracked, images, subsample_mask(shown & ~is_dynamic(scene), max_points), bands)),
    )


def _by_band(
    scene: Scene,
    images: UInt8[Tensor, "time 3 height width"],
    chosen: Bool[Tensor, "time height width"],
    bands: Int[Tensor, "time height width"],
) -> Iterator[Cloud]:
    for number, band in enumerate(BANDS):
        in_band = chosen & (bands == number)
        if in_band.any():
            yield Cloud(band, scene, images, in_band)
