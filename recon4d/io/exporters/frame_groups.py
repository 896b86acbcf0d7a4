"""Frames of equal time for animated formats, their points and cameras, and the points between them, with y up."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from recon4d.errors import UserError
from recon4d.geometry import evenly_spaced_indices, pixel_indices, subsample_mask
from recon4d.io.exporters.frame_source import FrameSource
from recon4d.io.exporters.selected_frames import SelectedFrames
from recon4d.io.point_cloud import unproject_pixels

PHOTO_SECONDS = 0.5
"""Time for which each picture of a collection without times is shown, in seconds. Hand-tuned."""
Y_UP = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
"""Rotation from the axes of the world or of a camera (OpenCV) to y up, with cameras looking along -z."""


@dataclass(frozen=True)
class FrameGroup:
    """Frames that were taken at the same time: one, except for rigs of cameras."""

    seconds: float
    """Time from the first group, in seconds."""
    frames: tuple[int, ...]
    """Frame numbers, from 0."""
    name: str
    """Name of the first frame."""


@dataclass(frozen=True, eq=False)
class TimedCamera:
    """Camera of a group: that of its first frame."""

    seconds: float
    """Time from the first group, in seconds."""
    world_from_cam: Float[Tensor, "4 4"]
    """Pose in float64, with y up; the camera looks along -z."""
    intrinsics: Float[Tensor, "3 3"]
    """Intrinsics in pixels of the maps, in float64."""


def frame_groups(source: FrameSource) -> list[FrameGroup]:
    """Group frames by their time.

    Args:
        source: The frames.

    Returns:
        Groups in the order of time. Pictures without times follow each other by `PHOTO_SECONDS`.
    """
    times = source.times.double()
    if not torch.isfinite(times).all():
        times = PHOTO_SECONDS * torch.arange(len(times), dtype=torch.float64)
    values, members = torch.unique(times - times.min(), return_inverse=True)
    return [
        FrameGroup(seconds, tuple(frames := (members == number).nonzero()[:, 0].tolist()), source.names[frames[0]])
        for number, seconds in enumerate(values.tolist())
    ]


def end_of(groups: list[FrameGroup]) -> float:
    """Return the end of an animation: the last group is shown as long as the others, in the median.

    Args:
        groups: Groups in the order of time, at least one.

    Returns:
        Time from the first group, in seconds.
    """
    seconds = torch.tensor([group.seconds for group in groups], dtype=torch.float64)
    step = float(seconds.diff().median()) if len(groups) > 1 else PHOTO_SECONDS
    return groups[-1].seconds + step


def group_points(
    frames: SelectedFrames, groups: list[FrameGroup], static_only: bool = False
) -> Iterator[tuple[Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]]:
    """Unproject the confident points of each group; groups share the largest number of points.

    Args:
        frames: The frames to export.
        groups: Groups of these frames.
        static_only: Whether points that move are left out.

    Yields:
        World points in float32 with y up, and their RGB colors; none if no pixel of a group is confident.

    Raises:
        NoConfidentPointsError: If no group has points.
        UserError: If a picture is missing or damaged.
    """
    count = 0
    # Points that move have the other half.
    budget = frames.selection.max_points // 2 if static_only else frames.selection.max_points
    for group in groups:
        limit = max(1, budget // (len(groups) * len(group.frames)))
        points, colors = [torch.zeros(0, 3)], [torch.zeros(0, 3, dtype=torch.uint8)]
        for number, frame in frames.numbered(group.frames):
            mask = frames.static_mask(frame) if static_only else frames.confident_mask(frame)
            if mask.any():
                image = frames.source.read_image(number)
                found = unproject_pixels(frame, image[None], subsample_mask(mask, limit))
                points.append(found[0] @ Y_UP.T.to(found[0]))
                colors.append(found[1])
        count += sum(map(len, points))
        yield torch.cat(points), torch.cat(colors)
    frames.require_confident(count)


@dataclass(frozen=True, eq=False)
class CurvePoints:
    """Points that move, at one time."""

    seconds: float
    """Time from the first frame, in seconds."""
    points: Float[Tensor, "n 3"]
    """World points in float32 with y up."""
    colors: UInt8[Tensor, "n 3"]
    """RGB colors."""


def curve_points(frames: SelectedFrames) -> list[CurvePoints]:
    """Evaluate the curves of what moves at the times of all frames and at times between them.

    Args:
        frames: The frames to export, with the number of times between two frames in their selection.

    Returns:
        Points in the order of time: curves that are probably visible at that time.

    Raises:
        UserError: If the scene has no trajectories, or a picture is missing or damaged.
    """
    curves = frames.source.outline.scene.trajectories
    if curves is None:
        raise UserError("interpolated frames need trajectories, which recon4d.motion.fit_trajectories fits to tracks")
    times = curves.interpolated_times(frames.selection.interpolated_frames)
    limit = max(1, frames.selection.max_points // (2 * len(times)))
    kept = evenly_spaced_indices(curves.num_curves, limit)
    kept = kept[curves.anchors[kept] >= 0]
    colors = _curve_colors(frames.source, curves.anchors[kept], curves.pixels[kept])
    positions = curves.positions(times)[kept] @ Y_UP.T.to(curves.control_points)
    found = []
    for number, time in enumerate(times.tolist()):
        is_shown = curves.shown_at(time)[kept]
        found.append(CurvePoints(time - float(times[0]), positions[is_shown, number].float(), colors[is_shown]))
    return found


def _curve_colors(
    source: FrameSource, anchors: Int[Tensor, " curve"], pixels: Float[Tensor, "curve 2"]
) -> UInt8[Tensor, "curve 3"]:
    """Return the colors of curves in the pictures of their anchors."""
    row, column = pixel_indices(pixels, source.size)
    colors = torch.zeros(len(anchors), 3, dtype=torch.uint8)
    for anchor in anchors.unique().tolist():
        of_anchor = anchors == anchor
        colors[of_anchor] = source.read_image(anchor)[:, row[of_anchor], column[of_anchor]].T
    return colors


def group_cameras(source: FrameSource, groups: list[FrameGroup]) -> list[TimedCamera]:
    """Collect the known cameras of the groups.

    Args:
        source: The frames.
        groups: Groups of these frames.

    Returns:
        Cameras in the order of time, without unknown ones.
    """
    cameras = []
    for group in groups:
        world_from_cam = source.cameras.world_from_cam[group.frames[0]].double()
        intrinsics = source.cameras.intrinsics[group.frames[0]].double()
        if torch.isfinite(world_from_cam).all() and torch.isfinite(intrinsics).all():
            turn = torch.eye(4, dtype=torch.float64)
            turn[:3, :3] = Y_UP
            cameras.append(TimedCamera(group.seconds, turn @ world_from_cam @ turn, intrinsics))
    return cameras
