"""Tracks of what moves: pixels that are followed in the pictures, lifted to the world.

A position in another frame is lifted with the depth that its point would have there if it had not moved along the ray:
the depth of moving objects in single frames varies by more than most objects move along it.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.geometry import pixel_indices, transform_points, unproject
from recon4d.records import Clip, Scene
from recon4d.refine.dynamic.flow_tracking import FlowTracker, FlowTracks

MIN_FOLLOWED = 0.1
"""Smallest share of the pixels of a moving region that are followed into a frame, for the others to move along.
Hand-tuned."""
SPREAD = 0.1
"""Standard deviation of the window over which followed pixels move their neighbors along, as a fraction of the longer
side. Hand-tuned."""
MAX_EXTRAPOLATION = 1.5
"""Longest time over which hidden regions keep their velocity, relative to the time over which it was observed.
Hand-tuned."""
HIDDEN_CONFIDENCE = 0.25
"""Factor on the confidence of positions that were not followed."""
FOLLOWED_VISIBILITY = 0.9
"""Smallest visibility of positions that were followed: the pictures agree there."""
_MIN_DEPTH = 1e-6


def track_dynamic_pixels(clip: Clip, scene: Scene) -> Scene:
    """Replace the tracks of dynamic pixels by what the pictures show.

    Pixels of a region that are lost move as their followed neighbors; a region that is not seen in a frame keeps its
    last velocity, with a lower confidence. A region of which nothing can be followed keeps its tracks.

    Args:
        clip: A single clip.
        scene: Its scene with refined cameras and the mask of what moves.

    Returns:
        The scene with these tracks; the scene itself if it has no tracks or nothing moves.
    """
    tracks = scene.tracks
    if tracks is None or not scene.is_dynamic[tracks.anchors].any():
        return scene
    follower = FlowTracker(clip, scene)
    parts = []
    for place, anchor in enumerate(tracks.anchors.tolist()):
        moved = _region_motion(follower, anchor, clip.times.cpu())
        row, column = pixel_indices(tracks.pixels[place], scene.size)
        is_dynamic = scene.is_dynamic[anchor, row, column]
        parts.append(_at_queries(moved, scene, place, is_dynamic))
    points, visibility, confidence = (torch.stack(part) for part in zip(*parts, strict=True))
    return replace(scene, tracks=replace(tracks, points=points, visibility=visibility, confidence=confidence))


@dataclass(frozen=True)
class _Motion:
    """Displacement in the world of the dynamic pixels of an anchor, at the working size."""

    displacements: Float[Tensor, "time height width 3"]
    is_known: Bool[Tensor, "time height width"]
    """Whether the displacement was followed, filled from neighbors or extrapolated."""
    is_followed: Bool[Tensor, "time height width"]


def _region_motion(follower: FlowTracker, anchor: int, times: Float[Tensor, " time"]) -> _Motion:
    """Follow the pixels of an anchor and complete their motion region by region."""
    import cv2

    followed = follower.follow(anchor)
    displacements = _lift(follower.scene, followed, anchor)
    is_known = torch.zeros_like(followed.is_followed)
    mask = follower.is_dynamic[anchor]
    _, labels = cv2.connectedComponents(mask.numpy().astype(np.uint8), connectivity=4)
    regions = torch.from_numpy(labels)
    for label in range(1, int(regions.max()) + 1):
        region = regions == label
        share = followed.is_followed[:, region].float().mean(dim=1)
        is_tracked = share >= MIN_FOLLOWED
        if not is_tracked.sum() > 1:  # The anchor frame itself always counts.
            continue
        for frame in is_tracked.nonzero()[:, 0].tolist():
            filled = _filled(displacements[frame], followed.is_followed[frame] & region)
            displacements[frame] = torch.where(region[..., None], filled, displacements[frame])
            is_known[frame] |= region
        for frame in (~is_tracked).nonzero()[:, 0].tolist():
            extrapolated = _extrapolated(displacements, is_tracked, times, anchor, frame)
            if extrapolated is not None:
                displacements[frame] = torch.where(region[..., None], extrapolated, displacements[frame])
                is_known[frame] |= region
    return _Motion(displacements, is_known, followed.is_followed)


def _lift(scene: Scene, followed: FlowTracks, anchor: int) -> Float[Tensor, "time height width 3"]:
    """Compute displacements in the world, at the depth of points that do not move along the ray."""
    start = scene.points_from_depth[anchor]
    cameras = scene.cameras
    in_camera = transform_points(cameras.cam_from_world, start.expand(scene.num_frames, *start.shape))
    depths = in_camera[..., 2].clamp(min=_MIN_DEPTH)
    lifted = unproject(followed.positions, depths, cameras.intrinsics)
    points = transform_points(cameras.world_from_cam, lifted)
    displacements = points - start
    displacements[anchor] = 0
    return displacements


def _filled(
    displacements: Float[Tensor, "height width 3"], is_followed: Bool[Tensor, "height width"]
) -> Float[Tensor, "height width 3"]:
    """Average the displacements of followed pixels near each pixel, and those of all of them far from any."""
    import cv2

    deviation = SPREAD * max(displacements.shape[:2])
    weights = is_followed.float()
    values = torch.cat([displacements * weights[..., None], weights[..., None]], dim=-1)
    blurred = torch.from_numpy(cv2.GaussianBlur(values.numpy(), (0, 0), deviation))
    mean = displacements[is_followed].mean(dim=0)
    near = blurred[..., 3:]
    filled = torch.where(near > 1e-3, blurred[..., :3] / near.clamp(min=1e-3), mean)
    return torch.where(is_followed[..., None], displacements, filled)


def _extrapolated(
    displacements: Float[Tensor, "time height width 3"],
    is_tracked: Bool[Tensor, " time"],
    times: Float[Tensor, " time"],
    anchor: int,
    frame: int,
) -> Float[Tensor, "height width 3"] | None:
    """Continue the last motion that was seen on the way from the anchor to a frame; None if there was none."""
    step = 1 if frame > anchor else -1
    last = anchor
    while is_tracked[last + step]:
        last += step
    if last == anchor:
        last = _nearest_tracked(is_tracked, anchor, frame)
    observed, wanted = float(times[last] - times[anchor]), float(times[frame] - times[anchor])
    if observed == 0:
        return None
    factor = wanted / observed
    return displacements[last] * min(max(factor, -MAX_EXTRAPOLATION), MAX_EXTRAPOLATION)


def _nearest_tracked(is_tracked: Bool[Tensor, " time"], anchor: int, frame: int) -> int:
    """Return the frame nearest to another one, apart from the anchor, into which a region was followed."""
    seen = [index for index in is_tracked.nonzero()[:, 0].tolist() if index != anchor]
    return min(seen, key=lambda index: (abs(index - frame), index))


def _at_queries(
    moved: _Motion, scene: Scene, place: int, is_dynamic: Bool[Tensor, " query"]
) -> tuple[Float[Tensor, "time query 3"], Float[Tensor, "time query"], Float[Tensor, "time query"]]:
    """Give the queries of an anchor the motion at their pixels: points, visibility and confidence."""
    tracks = scene.tracks
    assert tracks is not None
    height, width = moved.is_known.shape[1:]
    factor = tracks.pixels.new_tensor([width / scene.size[1], height / scene.size[0]])
    row, column = pixel_indices(tracks.pixels[place] * factor, (height, width))
    is_known, is_followed = (part[:, row, column] & is_dynamic for part in (moved.is_known, moved.is_followed))
    start = tracks.points[place, tracks.anchors[place]]
    points = torch.where(is_known[..., None], start + moved.displacements[:, row, column], tracks.points[place])
    visibility, confidence = tracks.visibility[place], tracks.confidence[place]
    is_hidden = is_known & ~is_followed
    return (
        points,
        torch.where(is_followed, visibility.clamp(min=FOLLOWED_VISIBILITY), visibility),
        torch.where(is_hidden, HIDDEN_CONFIDENCE * confidence, confidence),
    )
