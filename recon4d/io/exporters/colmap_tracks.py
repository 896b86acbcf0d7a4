"""Points of a COLMAP model from a scene's tracks: what stands still and was followed through several frames.

Where a network followed a point to is evidence of its own for every frame, unlike the projections of one frame's depth.
The pixel of an observation is that where the followed point falls in the picture of its time.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor

from recon4d.geometry import pixel_indices, subsample_mask, transform_points
from recon4d.records import Scene

VISIBLE = 0.5
AGREEMENT = 0.02
"""Of the depth: a point that was followed to farther from its usual place than this did not stand still then."""
LEAST_FRAMES = 2


@dataclass(frozen=True, eq=False)
class TrackedPoints:
    """Still points, and where each frame sees them; pixels are those of the scene's maps."""

    points: Float64[Tensor, "n 3"]
    colors: UInt8[Tensor, "n 3"]
    pixels: Float64[Tensor, "time n 2"]
    visibility: Bool[Tensor, "time n"]


def tracked_points(
    scene: Scene,
    images: UInt8[Tensor, "time 3 height width"],
    still: Bool[Tensor, "time height width"],
    max_points: int,
) -> TrackedPoints | None:
    """At most `max_points` points of the scene's tracks that begin at `still` pixels of their anchors; None without.

    A point is the median of the places it was followed to while visible. It is observed where it was visible, in the
    picture, and within 2 % of its depth of that median; points observed in one frame only are left out.
    """
    tracks = scene.tracks
    if tracks is None or max_points < 1:
        return None
    row, column = pixel_indices(tracks.pixels, scene.size)
    begins_still = still[tracks.anchors[:, None].clamp(min=0), row, column] & (tracks.anchors >= 0)[:, None]

    pixels = scene.track_pixels.double()
    in_camera = transform_points(
        scene.cameras.cam_from_world.expand(*tracks.points.shape[:2], 4, 4).double(), tracks.points.double()
    )
    inside = (pixels >= 0).all(dim=-1) & (pixels < pixels.new_tensor([scene.size[1], scene.size[0]])).all(dim=-1)
    seen = (tracks.visibility > VISIBLE) & (tracks.confidence > 0) & inside
    places = torch.where(seen[..., None], tracks.points.double(), torch.nan).nanmedian(dim=1).values
    off = (tracks.points.double() - places[:, None]).norm(dim=-1)
    seen &= off <= AGREEMENT * in_camera[..., 2]
    usable = begins_still & (seen.sum(dim=1) >= LEAST_FRAMES)
    chosen = subsample_mask(usable[..., None], max_points)[..., 0]
    if not chosen.any():
        return None
    colors = images[tracks.anchors[:, None].clamp(min=0), :, row, column]
    by_query = chosen.nonzero().unbind(-1)
    return TrackedPoints(
        points=places[chosen],
        colors=colors[chosen],
        pixels=pixels[by_query[0], :, by_query[1]].movedim(0, 1),
        visibility=seen[by_query[0], :, by_query[1]].movedim(0, 1),
    )
