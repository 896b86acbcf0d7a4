"""Clips of any length in the memory of two windows: overlapping windows, or every frame with the first."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from recon4d.inference.windows.given_cameras import given_cameras
from recon4d.inference.windows.layout import Window, anchored_windows, overlapping_windows
from recon4d.inference.windows.loop_closure import (
    LoopConfig,
    loop_candidates,
    measure_loop,
    thumbnails,
)
from recon4d.inference.windows.pipeline import Run, carry_out
from recon4d.inference.windows.pose_graph import Edge, optimize_pose_graph
from recon4d.inference.windows.window_alignment import JOIN_BY_POINTS, JOIN_BY_SCALE
from recon4d.inference.windows.work_folder import Placement, WorkFolder
from recon4d.io import SceneInfo
from recon4d.io.long_archive import LongScene
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, Scene

Lens = Literal["auto", "one", "each"]
"""Whose intrinsics hold: the median over all windows for every frame, or each frame's own as its window answered them.

`auto` is one lens for frames that have times, as those of a video, and each its own for loose photos.
"""


@dataclass(frozen=True)
class WindowConfig:
    """How a long clip is cut into windows and put together again."""

    window: int = 16
    """Frames of one pass."""
    overlap: int = 4
    """Frames that a window shares with the one before, at least 1."""
    static_below: float = 0.5
    """Pixels whose probability to move is this or more do not join windows; above 1 all pixels do."""
    loops: LoopConfig | None = None
    """How places that are seen again are found and drift is spread; None leaves each window where the last put it."""
    lens: Lens = "auto"
    """Whether all windows are seen through one lens."""
    tracks: int = 0
    """Follow every so many-th pixel of the clip's first frame, along both axes, through all windows: 1 follows all of
    them, 0 none. Each window then has to be answered with tracks of all pixels of its first frame."""

    def __post_init__(self) -> None:
        if not 1 <= self.overlap < self.window:
            raise ValueError(
                f"windows of {self.window} frames cannot share {self.overlap}; wanted an overlap of at least 1 and "
                "less than the window"
            )
        if not self.static_below > 0:
            raise ValueError(f"static_below is {self.static_below:g}; wanted a probability above 0")
        if self.tracks < 0:
            raise ValueError(f"tracks is {self.tracks}; wanted 1 to follow every pixel, 4 every fourth, 0 for none")


@dataclass(frozen=True)
class AnchorConfig:
    """How the frames of a long clip are taken together with the first."""

    frames_per_call: int = 1
    """Frames beside the anchor in one pass: 1 makes pairs."""
    lens: Lens = "auto"
    """Whether all pairs are seen through one lens."""

    def __post_init__(self) -> None:
        if self.frames_per_call < 1:
            raise ValueError(f"frames_per_call is {self.frames_per_call}; wanted at least 1")


def reconstruct_windows(
    reconstruct_clip: Callable[[Clip], Scene],
    long_clip: LongClip,
    folder: str | Path,
    info: SceneInfo,
    config: WindowConfig = WindowConfig(),
    progress: bool = False,
) -> LongScene:
    """Reconstruct overlapping windows, put them into the world of the first camera and write every frame to `folder`.

    `reconstruct_clip` answers a clip of at most ``config.window`` frames, in any world and any unit: each window is
    brought to the one before by a robust similarity on the confident static points of the frames that both have.
    Cameras, depth and points share its scale. `info` says which run this is; its `settings` are what the answer of a
    window depends on.

    Tracks are those of a window and are left out, unless ``config.tracks`` asks for pixels of the clip's first frame to
    be followed: then every frame's file says where these are at its time. A pixel that is hidden, or out of the
    picture, where the next window begins has ended: from that window's frames on it has confidence 0, `visible` 0, and
    the place at which it was last known.

    Each window's clip has its part of what is known of the long one (``clip.known``). Known cameras are the answer's
    cameras, in the world of the first and in the given unit; windows then are not joined by points, but stand where
    their cameras do, each in a scale of its own (`place_by_cameras`). What is to be ignored has confidence 0.

    Memory does not grow with the clip, except by some hundred bytes for each frame (cameras, times, names). The disk
    holds about 28 bytes for each pixel of a map, and a little more than that again while windows are being joined.
    A run that was stopped, or has failed, goes on with the same call, and its answer is the same bit for bit as if it
    had never stopped; a folder whose run has ended is answered as it stands.

    Raises ``ValueError`` where two windows have no static points in common, naming them (what is finished is kept),
    where cameras are known for some frames only or together with loops, or where tracks are wanted and an answer has
    none, ``FileExistsError`` for a folder that holds something else, and whatever `reconstruct_clip` raises.
    """
    windows = overlapping_windows(long_clip.num_frames, config.window, config.overlap)
    given, one_lens = given_cameras(long_clip), _is_one_lens(config.lens, long_clip)
    if given is not None and config.loops is not None:
        raise ValueError("loops move windows, and known cameras say where they are: ask for one of the two")
    tracks = {"tracks": config.tracks} if config.tracks else {}
    run = Run(
        reconstruct_clip,
        long_clip,
        windows,
        join=JOIN_BY_POINTS if given is None else JOIN_BY_SCALE,
        static_below=config.static_below,
        adjust=None if config.loops is None else partial(_close_loops, reconstruct_clip, long_clip, windows, config),
        keeps_tracks=config.tracks > 0,
        chain_stride=config.tracks,
        one_lens=one_lens,
        given=given,
        info=_with_settings(
            info, windows="overlapping", window=config.window, overlap=config.overlap, one_lens=one_lens, **tracks
        ),
        progress=progress,
    )
    with torch.no_grad():
        return carry_out(run, Path(folder))


def reconstruct_anchored(
    reconstruct_clip: Callable[[Clip], Scene],
    long_clip: LongClip,
    folder: str | Path,
    info: SceneInfo,
    config: AnchorConfig = AnchorConfig(),
    progress: bool = False,
) -> LongScene:
    """Reconstruct every frame together with the first, its anchor, and write every frame to `folder`.

    Cost grows with the number of frames, and no error adds up over time: each answer is brought to the first by the
    anchor's camera, which is put exactly in its place, and by one scale from the anchor's depth (the anchor-based
    pipeline of St4RTrack, Feng et al. 2025). It suits clips whose every frame sees something of what the first one saw.

    Where `reconstruct_clip` answers tracks of its first frame, and of no other, they are kept: then every frame's file
    says where the anchor's pixels are at its time. Everything else is as for `reconstruct_windows`.
    """
    one_lens = _is_one_lens(config.lens, long_clip)
    run = Run(
        reconstruct_clip,
        long_clip,
        anchored_windows(long_clip.num_frames, config.frames_per_call),
        join=JOIN_BY_SCALE,
        static_below=1.0,
        adjust=None,
        keeps_tracks=True,
        chain_stride=0,
        one_lens=one_lens,
        given=given_cameras(long_clip),
        info=_with_settings(info, windows="anchored", frames_per_call=config.frames_per_call, one_lens=one_lens),
        progress=progress,
    )
    with torch.no_grad():
        return carry_out(run, Path(folder))


def _close_loops(
    reconstruct_clip: Callable[[Clip], Scene],
    long_clip: LongClip,
    windows: Sequence[Window],
    config: WindowConfig,
    placement: Placement,
    work: WorkFolder,
) -> Placement:
    """The windows moved so that places seen again are one place; as they were where none is."""
    assert config.loops is not None
    loops = [
        measure_loop(candidate, reconstruct_clip, long_clip, work, config.static_below, config.loops.min_agreement)
        for candidate in loop_candidates(windows, thumbnails(long_clip), config.loops)
    ]
    closed = [edge for edge in loops if edge is not None]
    if not closed:
        return placement
    chain = [Edge(one.number - 1, one.number, work.load_joint(one).partner_from_world) for one in windows[1:]]
    first = work.load_answer(0)
    length = float(first.depths[first.depth_confidence > 0].median())
    placed = optimize_pose_graph(placement.world_from_window, [*chain, *closed], length)
    return replace(placement, world_from_window=placed)


def _is_one_lens(lens: Lens, long_clip: LongClip) -> bool:
    return lens == "one" or (lens == "auto" and all(math.isfinite(time) for time in long_clip.times))


def _with_settings(info: SceneInfo, **settings: str | int) -> SceneInfo:
    return replace(info, settings={**info.settings, **settings})
