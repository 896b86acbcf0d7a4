"""Reconstruction of clips of any length in the memory of two windows.

`reconstruct_windows` uses overlapping windows; `reconstruct_anchored` reconstructs every frame together with the first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from recon4d.errors import UserError
from recon4d.inference.windows.given_cameras import given_cameras
from recon4d.inference.windows.layout import Window, anchored_windows, overlapping_windows
from recon4d.inference.windows.loop_closure import LoopConfig, find_loop_pairs, measure_loop
from recon4d.inference.windows.loop_consistency import consistent_loops
from recon4d.inference.windows.pipeline import WindowJob, run_job
from recon4d.inference.windows.place_recognition import choose_keyframes, describe_places
from recon4d.inference.windows.pose_graph import Edge, optimize_pose_graph
from recon4d.inference.windows.window_alignment import ALIGN_BY_POINTS, ALIGN_BY_SCALE
from recon4d.inference.windows.work_folder import WindowPlacement, WorkFolder
from recon4d.io import SceneInfo
from recon4d.io.long_archive import LongScene
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, Scene
from recon4d.refine import Refinement

Lens = Literal["auto", "one", "each"]
"""Intrinsics of the frames: ``one`` uses the median over all windows, ``each`` keeps what the window predicted for each
frame. ``auto`` means ``one`` for frames with times, such as those of a video, and ``each`` for photos without times."""


@dataclass(frozen=True)
class WindowConfig:
    """How a long clip is divided into windows and put together."""

    window: int = 16
    """Number of frames of a window, which are reconstructed in one pass."""
    overlap: int = 4
    """Number of frames that a window shares with the previous one, from 1 to `window` - 1."""
    static_below: float = 0.5
    """Dynamic probability from which pixels are not used for alignment; above 1 all pixels are used."""
    loops: LoopConfig | None = None
    """How loops are closed to distribute drift; None leaves every window where its alignment puts it."""
    lens: Lens = "auto"
    """Whether all frames share their intrinsics, see `Lens`."""
    tracks: int = 0
    """Distance in pixels, along both axes, between the queries in the clip's first frame that are tracked through all
    windows: 1 tracks every pixel, 0 none. If above 0, each window must be reconstructed with tracks of all pixels of
    its first frame."""

    def __post_init__(self) -> None:
        if not 1 <= self.overlap < self.window:
            raise UserError(
                f"windows of {self.window} frames cannot share {self.overlap}; the overlap must be at least 1 and less "
                "than the window"
            )
        if not self.static_below > 0:
            raise UserError(f"static_below is {self.static_below:g}; it must be above 0")
        if self.tracks < 0:
            raise UserError(f"tracks is {self.tracks}; it must be 1 for every pixel, 4 for every fourth, or 0 for none")


@dataclass(frozen=True)
class AnchorConfig:
    """How the frames of a long clip are reconstructed together with the first one."""

    frames_per_call: int = 1
    """Number of frames besides the anchor in one pass: 1 makes pairs."""
    lens: Lens = "auto"
    """Whether all frames share their intrinsics, see `Lens`."""

    def __post_init__(self) -> None:
        if self.frames_per_call < 1:
            raise UserError(f"frames_per_call is {self.frames_per_call}; it must be at least 1")


def reconstruct_windows(
    reconstruct_clip: Callable[[Clip], Scene],
    long_clip: LongClip,
    folder: str | Path,
    info: SceneInfo,
    config: WindowConfig = WindowConfig(),
    progress: bool = False,
) -> LongScene:
    """Reconstruct a long clip in overlapping windows and write every frame to a folder.

    Each window is aligned to the previous one by a robust similarity between the confident static points of the frames
    that both contain. Cameras, depth and points of a window are scaled together. The world of the result is the first
    camera.

    Tracks of single windows are dropped. With ``config.tracks``, pixels of the clip's first frame are tracked through
    all windows, and every frame's file holds their positions at its time. A pixel that is occluded or outside the image
    where the next window begins ends: from then on its confidence and visibility are 0, and its position is the last
    known one.

    The clip of each window has the part of ``long_clip.priors`` that belongs to its frames. If cameras are given, the
    result has exactly these cameras, in the world of the first and in the given unit. Windows are then placed by their
    cameras, and only a scale of each window is estimated (`place_by_cameras`). Pixels of the ignore mask have
    confidence 0.

    Memory does not grow with the length of the clip, except by some hundred bytes for each frame (cameras, times,
    names). The result takes about 28 bytes on disk for each pixel of a map; the windows need a little more than the
    same amount while the run lasts.

    A run that was interrupted or has failed continues with the same call, and its result is identical bit for bit to
    that of an uninterrupted run. If the run in `folder` is complete, its index is returned at once.

    Args:
        reconstruct_clip: Reconstructs a clip of at most ``config.window`` frames, in any world and any unit.
        long_clip: The clip to reconstruct.
        folder: The output folder; it must be missing, empty, or belong to the same run.
        info: Description of the run; its `settings` must contain everything that the reconstruction of a window depends
            on.
        config: How the clip is divided and put together.
        progress: Whether to show progress bars on stderr.

    Returns:
        The index of the long clip in `folder`. `recon4d.io.long_archive` reads the frames.

    Raises:
        UserError: If two windows share too few static points (finished windows are kept), cameras are given for some
            frames only or together with loops, or the folder contains anything else.
        ValueError: If `reconstruct_clip` returns a scene that does not fit its clip, or no tracks although
            ``config.tracks`` needs them. Exceptions of `reconstruct_clip` are passed on.
    """
    job = _overlapping_job(reconstruct_clip, long_clip, info, config, progress)
    with torch.no_grad():
        return run_job(job, Path(folder))


def refine_windows(
    refine_window: Callable[[Clip], Refinement],
    long_clip: LongClip,
    folder: str | Path,
    info: SceneInfo,
    config: WindowConfig = WindowConfig(),
    progress: bool = False,
    report: Callable[[str], None] | None = None,
) -> LongScene:
    """Reconstruct a long clip in overlapping windows, each of which is refined, and write every frame to a folder.

    Refined windows are joined by the cameras and the depth of the frames that both contain; a window that could not be
    refined is joined by points, as in `reconstruct_windows`. If all frames share their intrinsics and none are given,
    some windows are refined first to calibrate the lens, including radial distortion, and the others keep it. Frames
    whose camera one of two windows does not determine come from the other one. `LongScene.refinements` and the files of
    the frames tell how each window was refined. Everything else is as for `reconstruct_windows`.

    Args:
        refine_window: Reconstructs and refines a clip of at most ``config.window`` frames.
        long_clip: The clip to reconstruct.
        folder: The output folder; it must be missing, empty, or belong to the same run.
        info: Description of the run.
        config: How the clip is divided and put together.
        progress: Whether to show progress bars on stderr.
        report: Called with a line on the lens, then with one on each window; None is silent.

    Returns:
        The index of the long clip in `folder`.

    Raises:
        UserError: As for `reconstruct_windows`.
        ValueError: As for `reconstruct_windows`.
    """
    job = _overlapping_job(refine_window, long_clip, info, config, progress)
    calibrate = refine_window if _shares_intrinsics(config.lens, long_clip) else None
    with torch.no_grad():
        return run_job(replace(job, calibrate=calibrate, report=report), Path(folder))


def reconstruct_anchored(
    reconstruct_clip: Callable[[Clip], Scene],
    long_clip: LongClip,
    folder: str | Path,
    info: SceneInfo,
    config: AnchorConfig = AnchorConfig(),
    progress: bool = False,
) -> LongScene:
    """Reconstruct every frame of a long clip together with the first, its anchor, and write every frame to a folder.

    Each reconstruction is aligned to the first one by the camera of the anchor, which is mapped exactly, and by one
    scale from the depth of the anchor. Errors therefore do not accumulate, and the cost is linear in the number of
    frames. This is the anchor-based pipeline of St4RTrack (Feng et al. 2025). It suits clips in which every frame
    overlaps with the first one.

    If `reconstruct_clip` returns tracks of its first frame and of no other, they are kept: every frame's file then
    holds the positions of the anchor's pixels at its time. Everything else is as for `reconstruct_windows`.

    Args:
        reconstruct_clip: Reconstructs a clip of at most ``config.frames_per_call`` + 1 frames, in any world and any
            unit.
        long_clip: The clip to reconstruct.
        folder: The output folder; it must be missing, empty, or belong to the same run.
        info: Description of the run; its `settings` must contain everything that a reconstruction depends on.
        config: How the clip is divided.
        progress: Whether to show progress bars on stderr.

    Returns:
        The index of the long clip in `folder`.

    Raises:
        UserError: If a reconstruction shares too few confident pixels with the first one, cameras are given for some
            frames only, or the folder contains anything else.
        ValueError: If `reconstruct_clip` returns a scene that does not fit its clip.
    """
    share_intrinsics = _shares_intrinsics(config.lens, long_clip)
    job = WindowJob(
        reconstruct_clip,
        long_clip,
        anchored_windows(long_clip.num_frames, config.frames_per_call),
        method=ALIGN_BY_SCALE,
        static_below=1.0,
        adjust_placement=None,
        keep_tracks=True,
        track_stride=0,
        share_intrinsics=share_intrinsics,
        given_cameras=given_cameras(long_clip),
        info=_with_settings(
            info, windows="anchored", frames_per_call=config.frames_per_call, one_lens=share_intrinsics
        ),
        progress=progress,
    )
    with torch.no_grad():
        return run_job(job, Path(folder))


def _overlapping_job(
    reconstruct_clip: Callable[[Clip], Scene | Refinement],
    long_clip: LongClip,
    info: SceneInfo,
    config: WindowConfig,
    progress: bool,
) -> WindowJob:
    """Describe a run in overlapping windows."""
    windows = overlapping_windows(long_clip.num_frames, config.window, config.overlap)
    given, share_intrinsics = given_cameras(long_clip), _shares_intrinsics(config.lens, long_clip)
    if given is not None and config.loops is not None:
        raise UserError("loop closure moves windows, which given cameras fix; use only one of the two")
    tracks = {"tracks": config.tracks} if config.tracks else {}
    return WindowJob(
        reconstruct_clip,
        long_clip,
        windows,
        method=ALIGN_BY_POINTS if given is None else ALIGN_BY_SCALE,
        static_below=config.static_below,
        adjust_placement=None if config.loops is None else partial(_close_loops, windows, config),
        keep_tracks=config.tracks > 0,
        track_stride=config.tracks,
        share_intrinsics=share_intrinsics,
        given_cameras=given,
        info=_with_settings(
            info,
            windows="overlapping",
            window=config.window,
            overlap=config.overlap,
            one_lens=share_intrinsics,
            **tracks,
        ),
        progress=progress,
    )


def _close_loops(
    windows: Sequence[Window],
    config: WindowConfig,
    placement: WindowPlacement,
    work: WorkFolder,
    long_clip: LongClip,
) -> WindowPlacement:
    """Move the windows so that loops close; return the placement unchanged if there are none."""
    assert config.loops is not None
    places = describe_places(long_clip, [frame for window in windows for frame in choose_keyframes(window)])
    measured = [
        measure_loop(pair, long_clip, work, config.static_below, config.loops.min_agreement)
        for pair in find_loop_pairs(windows, places, config.loops)
    ]
    first = work.load_window_scene(0)
    length = float(first.depths[first.depth_confidence > 0].median())
    found = [loop for loop in measured if loop is not None]
    closed = [loop.edge for loop in consistent_loops(found, placement.world_from_window, length)]
    if not closed:
        return placement
    consecutive = [
        Edge(window.number - 1, window.number, work.load_alignment(window).partner_from_world) for window in windows[1:]
    ]
    optimized = optimize_pose_graph(placement.world_from_window, [*consecutive, *closed], length)
    return replace(placement, world_from_window=optimized)


def _shares_intrinsics(lens: Lens, long_clip: LongClip) -> bool:
    return lens == "one" or (lens == "auto" and all(math.isfinite(time) for time in long_clip.times))


def _with_settings(info: SceneInfo, **settings: str | int) -> SceneInfo:
    return replace(info, settings={**info.settings, **settings})
