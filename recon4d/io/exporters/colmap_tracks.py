"""Points of a COLMAP model from the tracks of a scene: static points that were tracked through several frames.

The tracked position in a frame is independent evidence, unlike the projection of a point from another frame's depth.
The pixel of an observation is the projection of the tracked position into the frame of its time.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from recon4d.geometry import pixel_indices, subsample_mask, transform_points
from recon4d.io.exporters.selected_frames import SelectedFrames
from recon4d.records import Scene, Tracks

VISIBILITY_THRESHOLD = 0.5
"""Smallest visibility of an observation (exclusive). Hand-tuned."""
MAX_POSITION_ERROR = 0.02
"""Largest distance of a tracked position from the median position, as a fraction of the depth. A larger distance means
that the point was not static at that time. Hand-tuned."""
MIN_FRAMES = 2
"""Smallest number of frames that observe a point; a track through one frame is no evidence."""


@dataclass(frozen=True, eq=False)
class TrackedPoints:
    """Static points from tracks with their observations."""

    points: Float[Tensor, "n 3"]
    """World points of shape (n, 3), in scene units."""
    colors: UInt8[Tensor, "n 3"]
    """RGB colors of shape (n, 3)."""
    pixels: Float[Tensor, "time n 2"]
    """Projections (x, y) into each frame, of shape (time, n, 2), in pixels of the maps."""
    visibility: Bool[Tensor, "time n"]
    """Whether each frame observes each point, of shape (time, n)."""


@dataclass(frozen=True, eq=False)
class QueryStarts:
    """Properties of the pixels at which tracks start."""

    is_static: Bool[Tensor, "anchor query"]
    """Whether the pixel in the anchor frame is confident and static; False for anchors that are not in the scene."""
    colors: UInt8[Tensor, "anchor query 3"]
    """RGB color of the pixel in the anchor frame."""


def find_tracked_points(frames: SelectedFrames, max_points: int) -> TrackedPoints | None:
    """Select points from the tracks of a reconstruction, reading it frame by frame.

    Tracks of a long clip with more than `FrameSource.max_samples` positions are subsampled before they are read.

    Args:
        frames: The frames to export.
        max_points: Largest number of points.

    Returns:
        The points; None if the reconstruction has no tracks, or none that qualifies (see `select_tracked_points`).

    Raises:
        UserError: If there are no static pixels, or a picture is missing or damaged.
    """
    if max_points < 1:
        return None
    source = frames.source
    starts = find_query_starts(
        source.iter_frames(), lambda number, frame: (source.read_image(number), frames.static_mask(frame)[0])
    )
    if starts is None or not starts.is_static.any():
        return None
    kept = None
    if source.max_samples is not None and source.num_frames * starts.is_static.numel() > source.max_samples:
        kept = subsample_mask(starts.is_static[..., None], max(1, source.max_samples // source.num_frames))[..., 0]
        starts = QueryStarts(starts.is_static[kept][None], starts.colors[kept][None])
    tracks = _collect_tracks(source.iter_frames(), kept)
    if tracks is None:
        return None
    return select_tracked_points(replace(source.outline.scene, tracks=tracks), starts, max_points)


def find_query_starts(
    frames: Iterable[Scene],
    read: Callable[[int, Scene], tuple[UInt8[Tensor, "3 height width"], Bool[Tensor, "height width"]]],
) -> QueryStarts | None:
    """Look up the pixels at which tracks start.

    Args:
        frames: Scenes of one frame each, in order. The `anchors` of their tracks are 0 in the anchor frame and -1
            elsewhere. No frame is read after the last anchor frame.
        read: Function of a frame number and the scene of that frame. It returns the picture, of shape
            (3, height, width), and the mask of confident static pixels, of shape (height, width). It is called for
            anchor frames only.

    Returns:
        The starts of all queries; None if a frame has no tracks.
    """
    starts, is_found = None, torch.zeros(0, dtype=torch.bool)
    for number, frame in enumerate(frames):
        tracks = frame.tracks
        if tracks is None:
            return None
        if starts is None:
            shape = tracks.pixels.shape[:2]
            starts = QueryStarts(torch.zeros(shape, dtype=torch.bool), torch.zeros(*shape, 3, dtype=torch.uint8))
            is_found = torch.zeros(shape[0], dtype=torch.bool)
        is_anchor = tracks.anchors >= 0
        if is_anchor.any():
            image, static = read(number, frame)
            row, column = pixel_indices(tracks.pixels[is_anchor], frame.size)
            starts.is_static[is_anchor] = static[row, column]
            starts.colors[is_anchor] = image[:, row, column].movedim(0, -1)
            is_found |= is_anchor
        if is_found.all():
            break
    return starts


def select_tracked_points(scene: Scene, starts: QueryStarts, max_points: int) -> TrackedPoints | None:
    """Select static points that were tracked through several frames.

    A point is the median of its tracked positions in the frames where it is visible. A frame observes it if it is
    visible there, projects into the image, and is within `MAX_POSITION_ERROR` of the median. Points that fewer than
    `MIN_FRAMES` frames observe are left out.

    Args:
        scene: A scene with tracks. Only tracks, cameras and the size of the maps are read.
        starts: Properties of the pixels at which its tracks start.
        max_points: Largest number of points; more are sampled evenly over the queries.

    Returns:
        The points; None if there are none.
    """
    tracks = scene.tracks
    if tracks is None or max_points < 1:
        return None
    pixels = scene.track_pixels.double()
    in_camera = transform_points(
        scene.cameras.cam_from_world.expand(*tracks.points.shape[:2], 4, 4).double(), tracks.points.double()
    )
    is_inside = (pixels >= 0).all(dim=-1) & (pixels < pixels.new_tensor([scene.size[1], scene.size[0]])).all(dim=-1)
    is_observed = (tracks.visibility > VISIBILITY_THRESHOLD) & (tracks.confidence > 0) & is_inside
    positions = torch.where(is_observed[..., None], tracks.points.double(), torch.nan).nanmedian(dim=1).values
    errors = (tracks.points.double() - positions[:, None]).norm(dim=-1)
    is_observed &= errors <= MAX_POSITION_ERROR * in_camera[..., 2]
    qualifies = starts.is_static & (is_observed.sum(dim=1) >= MIN_FRAMES)
    selected = subsample_mask(qualifies[..., None], max_points)[..., 0]
    if not selected.any():
        return None
    anchor, query = selected.nonzero().unbind(-1)
    return TrackedPoints(
        points=positions[selected],
        colors=starts.colors[selected],
        pixels=pixels[anchor, :, query].movedim(0, 1),
        visibility=is_observed[anchor, :, query].movedim(0, 1),
    )


def _collect_tracks(frames: Iterable[Scene], kept: Bool[Tensor, "anchor query"] | None) -> Tracks | None:
    """Read the tracks of all frames; `kept` selects queries and joins them in one anchor. None if a frame has none."""
    pixels, parts = None, []
    for frame in frames:
        tracks = frame.tracks
        if tracks is None:
            return None
        values = (tracks.points[:, 0], tracks.visibility[:, 0], tracks.confidence[:, 0])
        if kept is None:
            pixels = tracks.pixels
        else:
            pixels = tracks.pixels[kept][None]
            values = tuple(value[kept][None] for value in values)
        parts.append(values)
    if pixels is None:
        return None
    points, visibility, confidence = (torch.stack(values, dim=1) for values in zip(*parts, strict=True))
    # The anchors are not read, see `QueryStarts`.
    return Tracks(points, visibility, confidence, torch.zeros(len(pixels), dtype=torch.int64), pixels)
