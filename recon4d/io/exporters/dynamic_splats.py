"""Gaussian splats over time: a PLY file for each time, and one file with the motion of every Gaussian."""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import pixel_indices, stratified_indices
from recon4d.io.exporters.selected_frames import SelectedFrames
from recon4d.io.gaussian_files import write_dynamic_gaussians, write_gaussians
from recon4d.motion.gaussians import SplatFrame, dynamic_gaussians
from recon4d.motion.trajectories import MAX_CURVES, curves_of_tracks
from recon4d.records import Tracks
from recon4d.records.gaussians import DynamicGaussians
from recon4d.records.trajectories import Trajectories

STATIC_SHARE = 0.75
"""Share of the largest number of points that static Gaussians may take; curves and single frames take half of the rest
each. Hand-tuned."""
FRAMES_FOLDER_NAME = "frames"
MOTION_FILE_NAME = "motion.ply"


def write_dynamic_splats(folder: Path, frames: SelectedFrames) -> str:
    """Write ``frames/frame_<number>.ply`` for each time, and ``motion.ply``, in the axes and unit of the world.

    Static surfaces become Gaussians once. Tracked pixels that move become Gaussians that follow their curves and rotate
    with their rigid pieces; other pixels that move are shown at their own time only. See `write_gaussians` and
    `write_dynamic_gaussians` for the files, and `recon4d.motion.dynamic_gaussians` for the Gaussians.

    Args:
        folder: An existing, empty folder.
        frames: The frames to export.

    Returns:
        A summary for the user.

    Raises:
        UserError: If there are no confident pixels, or a picture is missing or damaged.
    """
    splats = gaussians_of_frames(frames)
    frames.require_confident(len(splats.gaussians.centers))
    moments = torch.unique(splats.times).tolist()
    (folder / FRAMES_FOLDER_NAME).mkdir()
    for number, moment in enumerate(moments):
        write_gaussians(folder / FRAMES_FOLDER_NAME / f"frame_{number:06d}.ply", splats.at(moment))
    write_dynamic_gaussians(folder / MOTION_FILE_NAME, splats)
    static, curves = int(splats.is_static.sum()), int((splats.curves >= 0).sum())
    single = len(splats.curves) - static - curves
    return f"{static} static Gaussians, {curves} on curves, {single} of one frame, at {len(moments)} times"


def gaussians_of_frames(frames: SelectedFrames) -> DynamicGaussians:
    """Make Gaussians of the selected pixels of all frames.

    Args:
        frames: The frames to export. Pictures without times count as one second apart.

    Returns:
        The Gaussians; `DynamicGaussians.shown_frames` counts frames in the order of time.

    Raises:
        UserError: If a picture is missing or damaged.
    """
    source, max_points = frames.source, frames.selection.max_points
    times = source.times if torch.isfinite(source.times).all() else torch.arange(source.num_frames).float()
    times, order = times.sort(stable=True)
    max_static = max(1, round(STATIC_SHARE * max_points))
    max_others = max(1, (max_points - max_static) // 2)
    trajectories = _trajectories(frames, order.tolist(), times, min(MAX_CURVES, max_others))
    return dynamic_gaussians(_splat_frames(frames, order.tolist()), times, trajectories, max_static, max_others)


def _splat_frames(frames: SelectedFrames, order: list[int]) -> Iterator[SplatFrame]:
    for number, frame in frames.numbered(order):
        yield SplatFrame(frame, frames.source.read_image(number), frames.confident_mask(frame)[0])


def _trajectories(
    frames: SelectedFrames, order: list[int], times: Float[Tensor, " time"], max_curves: int
) -> Trajectories | None:
    """Return the curves of the scene, or those of its tracks; None if nothing moves or times do not increase."""
    stored = frames.source.outline.scene.trajectories
    if stored is not None and order == sorted(order):
        return stored
    if len(times) < 2 or not (times.diff() > 0).all():
        return None
    tracks = _dynamic_tracks(frames, order, max_curves)
    if tracks is None:
        return None
    is_dynamic = torch.ones(len(tracks.anchors), 1, dtype=torch.bool)
    return curves_of_tracks(tracks, is_dynamic, times, frames.depths.median, max_curves)


def _dynamic_tracks(frames: SelectedFrames, order: list[int], max_curves: int) -> Tracks | None:
    """Read the tracks of confident dynamic pixels, one anchor each, so that nothing else is held in memory."""
    starts = _query_starts(frames, order)
    if starts is None:
        return None
    anchor, query = (starts >= 0).nonzero().unbind(dim=-1)
    kept = stratified_indices(len(anchor), max_curves)
    anchor, query = anchor[kept], query[kept]
    if not len(kept):
        return None
    points, visibility, confidence, pixels = [], [], [], torch.zeros(0, 2)
    for frame in frames.source.iter_frames(order):
        if frame.tracks is None:
            return None
        points.append(frame.tracks.points[anchor, 0, query])
        visibility.append(frame.tracks.visibility[anchor, 0, query])
        confidence.append(frame.tracks.confidence[anchor, 0, query])
        pixels = frame.tracks.pixels[anchor, query]
    return Tracks(
        points=torch.stack(points, dim=1)[:, :, None],
        visibility=torch.stack(visibility, dim=1)[..., None],
        confidence=torch.stack(confidence, dim=1)[..., None],
        anchors=starts[anchor, query],
        pixels=pixels[:, None],
    )


def _query_starts(frames: SelectedFrames, order: list[int]) -> Tensor | None:
    """Return the position in `order` of the frame from which each query (anchor, query) starts; -1 for other pixels."""
    starts: Tensor | None = None
    for position, (_, frame) in enumerate(frames.numbered(order)):
        if frame.tracks is None:
            return None
        if starts is None:
            starts = torch.full(frame.tracks.pixels.shape[:2], -1)
        is_anchor = frame.tracks.anchors >= 0
        if is_anchor.any():
            row, column = pixel_indices(frame.tracks.pixels[is_anchor], frame.size)
            chosen = (frames.confident_mask(frame) & frame.is_dynamic)[0, row, column]
            starts[is_anchor] = torch.where(chosen, position, -1)
    return starts
