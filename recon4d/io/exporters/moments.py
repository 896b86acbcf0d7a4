"""Moments of a clip for animated formats: frames of equal time, their points and their camera, with y up."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from recon4d.geometry import subsample_mask
from recon4d.io.exporters.frame_source import FrameSource
from recon4d.io.exporters.selected_frames import SelectedFrames
from recon4d.io.point_cloud import unproject_pixels

PHOTO_SECONDS = 0.5
"""Time for which each picture of a collection without times is shown, in seconds. Hand-tuned."""
Y_UP = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
"""Rotation from the axes of the world or of a camera (OpenCV) to y up, with cameras looking along -z."""


@dataclass(frozen=True)
class Moment:
    """Frames that were taken at the same time: one, except for rigs of cameras."""

    seconds: float
    """Time from the first moment, in seconds."""
    frames: tuple[int, ...]
    """Frame numbers, from 0."""
    name: str
    """Name of the first frame."""


@dataclass(frozen=True, eq=False)
class MomentCamera:
    """Camera of a moment: that of its first frame."""

    seconds: float
    """Time from the first moment, in seconds."""
    world_from_cam: Float[Tensor, "4 4"]
    """Pose in float64, with y up; the camera looks along -z."""
    intrinsics: Float[Tensor, "3 3"]
    """Intrinsics in pixels of the maps, in float64."""


def moments_of(source: FrameSource) -> list[Moment]:
    """Group frames by their time.

    Args:
        source: The frames.

    Returns:
        Moments in the order of time. Pictures without times follow each other by `PHOTO_SECONDS`.
    """
    times = source.times.double()
    if not torch.isfinite(times).all():
        times = PHOTO_SECONDS * torch.arange(len(times), dtype=torch.float64)
    values, group = torch.unique(times - times.min(), return_inverse=True)
    return [
        Moment(seconds, tuple(frames := (group == number).nonzero()[:, 0].tolist()), source.names[frames[0]])
        for number, seconds in enumerate(values.tolist())
    ]


def end_of(moments: list[Moment]) -> float:
    """Return the end of an animation: the last moment is shown as long as the others, in the median.

    Args:
        moments: Moments in the order of time, at least one.

    Returns:
        Time from the first moment, in seconds.
    """
    seconds = torch.tensor([moment.seconds for moment in moments], dtype=torch.float64)
    step = float(seconds.diff().median()) if len(moments) > 1 else PHOTO_SECONDS
    return moments[-1].seconds + step


def moment_points(
    frames: SelectedFrames, moments: list[Moment]
) -> Iterator[tuple[Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]]:
    """Unproject the confident points of each moment; moments share the largest number of points.

    Args:
        frames: The frames to export.
        moments: Moments of these frames.

    Yields:
        World points in float32 with y up, and their RGB colors; none if no pixel of a moment is confident.

    Raises:
        NoConfidentPointsError: If no moment has points.
        UserError: If a picture is missing or damaged.
    """
    count = 0
    for moment in moments:
        limit = max(1, frames.selection.max_points // (len(moments) * len(moment.frames)))
        points, colors = [torch.zeros(0, 3)], [torch.zeros(0, 3, dtype=torch.uint8)]
        for number, frame in frames.numbered(moment.frames):
            mask = frames.confident_mask(frame)
            if mask.any():
                image = frames.source.read_image(number)
                found = unproject_pixels(frame, image[None], subsample_mask(mask, limit))
                points.append(found[0] @ Y_UP.T.to(found[0]))
                colors.append(found[1])
        count += sum(map(len, points))
        yield torch.cat(points), torch.cat(colors)
    frames.require_confident(count)


def moment_cameras(source: FrameSource, moments: list[Moment]) -> list[MomentCamera]:
    """Collect the known cameras of the moments.

    Args:
        source: The frames.
        moments: Moments of these frames.

    Returns:
        Cameras in the order of time, without unknown ones.
    """
    cameras = []
    for moment in moments:
        world_from_cam = source.cameras.world_from_cam[moment.frames[0]].double()
        intrinsics = source.cameras.intrinsics[moment.frames[0]].double()
        if torch.isfinite(world_from_cam).all() and torch.isfinite(intrinsics).all():
            turn = torch.eye(4, dtype=torch.float64)
            turn[:3, :3] = Y_UP
            cameras.append(MomentCamera(moment.seconds, turn @ world_from_cam @ turn, intrinsics))
    return cameras
