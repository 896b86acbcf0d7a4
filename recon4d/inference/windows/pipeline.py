"""A run over the windows of a long clip: each is answered, joined to an earlier one, put in its place and written.

Everything that one step hands to the next goes through files that are whole or not there. That is how memory stays
that of two windows, how a run that was stopped goes on, and why its answer is then the same bit for bit.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.geometry import invert, similarity_scale
from recon4d.inference.windows.frame_reader import clips_of_windows, masked
from recon4d.inference.windows.given_cameras import place_by_cameras
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.track_stitching import StitchedTracks, begin_stitching, check_tracks
from recon4d.inference.windows.window_alignment import (
    AlignmentMethod,
    NothingSharedError,
    Pixels,
    WindowAlignment,
)
from recon4d.inference.windows.work_folder import Placement, WorkFolder, open_work_folder
from recon4d.io import SceneInfo
from recon4d.io.long_archive import (
    INDEX_FILE_NAME,
    LongScene,
    load_frame_cameras,
    load_frames,
    load_index,
    save_frame,
    save_index,
    save_picture,
)
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, Scene

if TYPE_CHECKING:
    from tqdm import tqdm

FOCAL_DRIFT = 1.2
"""Focal lengths of windows that differ by more than this factor hint at a zoom, or at guessing."""
POOR_ERROR = 0.1
"""A median error of shared points, as a share of their depth, from which on a person is warned."""

Adjust = Callable[[Placement, WorkFolder], Placement]


@dataclass(frozen=True)
class Run:
    """What is to be done, whatever kind of windows it is done with.

    `adjust` may move windows once all are joined; `keeps_tracks` keeps the tracks of a window's first frame;
    `chain_stride` follows every so many-th pixel of the clip's first frame from window to window (0: each window's
    tracks are the clip's); `one_lens` sees all windows through the same intrinsics; `given` are the clip's cameras in
    the first one's world, where known.
    """

    reconstruct_clip: Callable[[Clip], Scene]
    long_clip: LongClip
    windows: Sequence[Window]
    join: AlignmentMethod
    static_below: float
    adjust: Adjust | None
    keeps_tracks: bool
    chain_stride: int
    one_lens: bool
    given: Float[Tensor, "time 4 4"] | None
    info: SceneInfo
    progress: bool


def carry_out(run: Run, folder: Path) -> LongScene:
    """The index of the whole clip in `folder`; what an earlier call has finished is not done again."""
    work = open_work_folder(folder, run.info)
    if not (folder / INDEX_FILE_NAME).exists():
        placement = work.load_placement()
        if placement is None:
            _answer_windows(run, work, folder)
            work = replace(work, lens=_common_lens(run, work))
            _join_windows(run, work)
            placement = _place(run, work)
            work.save_placement(placement)
        _write_frames(run, replace(work, lens=placement.lens), placement, folder)
        save_index(folder, _index(run, placement, folder))
    if work.path.exists():
        work.remove()
    return load_index(folder)


def _answer_windows(run: Run, work: WorkFolder, folder: Path) -> None:
    """Every window's answer, and before it the pictures of the frames that the window owns."""
    remaining = [window for window in run.windows if not work.has_answer(window)]
    with _bar(run, "windows", len(run.windows), len(run.windows) - len(remaining)) as bar:
        for window, clip in zip(remaining, clips_of_windows(run.long_clip, remaining), strict=True):
            answer = _answer(run, window, clip)
            for frame, position in zip(window.owned, window.positions(window.owned), strict=True):
                save_picture(folder, frame, clip.images[position])
            work.save_answer(window, answer)
            _shared(run, window, work)  # what cannot be joined is known now, and not when all are answered
            bar.update()


def _answer(run: Run, window: Window, clip: Clip) -> Scene:
    """What the model says of a window, with a note where it fails."""
    try:
        scene = run.reconstruct_clip(clip)
    except Exception as error:
        error.add_note(f"in {window}; the windows before it are kept, and the same call goes on from there")
        raise
    if scene.batch_shape or scene.num_frames != len(window.frames):
        raise ValueError(
            f"the answer for {window} has batch axes {tuple(scene.batch_shape)} and {scene.num_frames} frames; "
            f"wanted one scene of {len(window.frames)} frames"
        )
    if run.chain_stride:
        try:
            check_tracks(scene, run.chain_stride)
        except ValueError as error:
            raise ValueError(f"{window}: {error}") from error
    tracks = scene.tracks
    keep = run.keeps_tracks and tracks is not None and tracks.anchors.tolist() == [0]
    scene = scene if keep else replace(scene, tracks=None)
    return masked(scene.detach().to("cpu"), clip)


def _common_lens(run: Run, work: WorkFolder) -> Float[Tensor, "3 3"]:
    """The median of all intrinsics that windows answered; NaN where each frame keeps its own, or all are known."""
    known = run.long_clip.priors
    if not run.one_lens or (known is not None and known.intrinsics.isfinite().all()):
        return torch.full((3, 3), torch.nan)
    lenses = [work.load_intrinsics(window.number) for window in run.windows]
    focals = torch.stack([lens[:, 0, 0].median() for lens in lenses])
    if focals.max() > FOCAL_DRIFT * focals.min():
        warnings.warn(
            f"the focal lengths of windows lie between {focals.min():.0f} and {focals.max():.0f} pixels, and one is "
            "taken for all; where the clip has a zoom, let each frame keep its own (lens 'each')",
            stacklevel=2,
        )
    return torch.cat(lenses).double().quantile(0.5, dim=0)


def _join_windows(run: Run, work: WorkFolder) -> None:
    """How every window is joined to its partner, from their answers for the frames that both have."""
    remaining = [window for window in run.windows if not work.has_joint(window)]
    with _bar(run, "joints", len(run.windows), len(run.windows) - len(remaining)) as bar:
        for window in remaining:
            work.save_joint(window, _joint(run, window, work))
            bar.update()


def _joint(run: Run, window: Window, work: WorkFolder) -> WindowAlignment:
    shared = _shared(run, window, work)
    if shared is None:
        return WindowAlignment(
            torch.eye(4, dtype=torch.double), 0.0, float(work.load_answer(window.number).metres_per_unit)
        )
    joint = run.join.fit(*shared)
    if joint.error > POOR_ERROR:
        assert window.partner is not None
        warnings.warn(
            f"{window} fits {run.windows[window.partner]} poorly: the points they share differ by {joint.error:.0%} of "
            "their depth",
            stacklevel=2,
        )
    return joint


def _shared(run: Run, window: Window, work: WorkFolder) -> tuple[Scene, Scene, Pixels] | None:
    """A window's answer and its partner's for the frames that both have, and the pixels that can join them.

    None for a window without a partner. Raises ``ValueError`` where there are too few.
    """
    if window.partner is None:
        return None
    partner = run.windows[window.partner]
    ours = work.load_answer(window.number).frames(window.positions(window.shared))
    theirs = work.load_answer(partner.number).frames(partner.positions(window.shared))
    if ours.size != theirs.size:
        raise ValueError(f"the maps of {window} are {ours.size} and those of {partner} {theirs.size}; wanted one size")
    try:
        return ours, theirs, run.join.choose(ours, theirs, run.static_below)
    except NothingSharedError as error:
        raise ValueError(
            f"{window} cannot be joined to {partner}: in the frames that both have there are {error}. What is finished "
            f"is kept; go on with a higher static_below (now {run.static_below:g}) if too much is taken for moving, "
            "start again with a larger overlap, or reconstruct the parts before and after by themselves"
        ) from error


def _place(run: Run, work: WorkFolder) -> Placement:
    """Every window in the world of the clip's first camera: where given cameras put it, or joint after joint."""
    joints = [work.load_joint(window) for window in run.windows]
    if run.given is None:
        world_from_window = _place_by_joints(run.windows, joints, work.load_answer(0))
    else:
        world_from_window = place_by_cameras(run.windows, joints, work.load_answer, run.given)
    errors = torch.tensor([joint.error for joint in joints], dtype=torch.double)
    placement = Placement(world_from_window, errors, math.nan, work.lens)
    placement = placement if run.adjust is None else run.adjust(placement, work)
    # One world has one unit: each window's opinion of its length counts the same.
    meters = torch.tensor([joint.metres_per_unit for joint in joints], dtype=torch.double)
    metres_per_unit = (meters / similarity_scale(placement.world_from_window)).nanmedian()
    return replace(placement, metres_per_unit=float(metres_per_unit))


def _place_by_joints(
    windows: Sequence[Window], joints: Sequence[WindowAlignment], first: Scene
) -> Float[Tensor, "window 4 4"]:
    world_from_window = [invert(first.cameras.world_from_cam[0].double())]
    for window, joint in zip(windows[1:], joints[1:], strict=True):
        assert window.partner is not None
        world_from_window.append(world_from_window[window.partner] @ joint.partner_from_world)
    return torch.stack(world_from_window)


def _write_frames(run: Run, work: WorkFolder, placement: Placement, folder: Path) -> None:
    """Every frame's own file, from the window that owns it; a window whose frames are written is removed."""
    remaining = [window for window in run.windows if work.has_answer(window)]
    written = run.long_clip.num_frames - sum(len(window.owned) for window in remaining)
    with _bar(run, "frames", run.long_clip.num_frames, written) as bar:
        for window in remaining:
            scene = work.load_answer(window.number)
            chains = _chains(run, window, work, scene)
            for frame, position in zip(window.owned, window.positions(window.owned), strict=True):
                one = scene.frames([position])
                if chains is not None:
                    one = replace(one, tracks=chains.at(scene, position, is_first=frame == 0))
                placed = _placed(one, placement.world_from_window[window.number], placement.metres_per_unit)
                if run.given is not None:
                    exact = run.given[frame : frame + 1].to(placed.depths.dtype)
                    placed = placed.with_cameras(replace(placed.cameras, world_from_cam=exact))
                if chains is not None:
                    chains, placed = chains.remember(placed)
                save_frame(folder, frame, placed, run.long_clip.times[frame], run.info)
                bar.update()
            if chains is not None and window is not run.windows[-1]:
                _hand_on(chains, scene, window, run.windows[window.number + 1], work)
            work.remove_answer(window)


def _chains(run: Run, window: Window, work: WorkFolder, scene: Scene) -> StitchedTracks | None:
    """How the pixels that are followed go on in a window, as the one before has left word; None where none is."""
    if not run.chain_stride:
        return None
    return work.load_chains(window) if window.number else begin_stitching(scene.size, run.chain_stride)


def _hand_on(chains: StitchedTracks, scene: Scene, window: Window, following: Window, work: WorkFolder) -> None:
    """Leave word for the next window: `scene` is this one's answer."""
    (position,) = window.positions(following.frames[:1])
    work.save_chains(following, chains.hand_on(scene, position, work.load_answer(following.number)))


def _placed(scene: Scene, world_from_window: Tensor, metres_per_unit: float) -> Scene:
    """The scene of one frame in the world of the clip, computed in float64."""
    moved = scene.to(dtype=torch.double).transformed(world_from_window).to(dtype=torch.float32)
    return replace(moved, metres_per_unit=torch.tensor(metres_per_unit, dtype=torch.float32))


def _index(run: Run, placement: Placement, folder: Path) -> LongScene:
    owners = torch.tensor([window.number for window in run.windows for _ in window.owned])
    return LongScene(
        cameras=load_frame_cameras(folder, range(run.long_clip.num_frames)),
        times=torch.tensor(run.long_clip.times),
        size=load_frames(folder, [0]).size,
        windows=owners,
        world_from_window=placement.world_from_window,
        errors=placement.errors,
        metres_per_unit=placement.metres_per_unit,
        info=run.info,
    )


def _bar(run: Run, what: str, total: int, finished: int) -> "tqdm":
    """A bar on stderr with the time left, which counts from what an earlier call has finished."""
    from tqdm import tqdm

    return tqdm(total=total, initial=finished, desc=what, unit=what[:-1], disable=not run.progress)
