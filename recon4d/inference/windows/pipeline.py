"""Processing of the windows of a long clip: each is reconstructed, aligned to an earlier one, placed and written.

The steps communicate only through files that are written atomically. Memory is therefore bounded by two windows, and an
interrupted run can be resumed with a result that is identical bit for bit.
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

from recon4d.errors import UserError
from recon4d.geometry import invert, similarity_scale
from recon4d.inference.windows.frame_reader import apply_ignore_mask, read_windows
from recon4d.inference.windows.given_cameras import place_by_cameras
from recon4d.inference.windows.layout import Window
from recon4d.inference.windows.track_stitching import StitchedTracks, begin_stitching, check_tracks
from recon4d.inference.windows.window_alignment import (
    AlignmentMethod,
    Pixels,
    TooFewPixelsError,
    WindowAlignment,
)
from recon4d.inference.windows.work_folder import WindowPlacement, WorkFolder, open_work_folder
from recon4d.io import SceneInfo
from recon4d.io.long_archive import (
    INDEX_FILE_NAME,
    LongScene,
    load_frame_cameras,
    load_frames,
    load_index,
    save_frame,
    save_image,
    save_index,
)
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, Scene

if TYPE_CHECKING:
    from tqdm import tqdm

FOCAL_DRIFT = 1.2
"""Ratio of the focal lengths of two windows above which a zoom is suspected and a warning is given. Hand-tuned."""
POOR_ERROR = 0.1
"""Median alignment error, as a fraction of depth, above which a warning is given. Hand-tuned."""

AdjustPlacement = Callable[[WindowPlacement, WorkFolder], WindowPlacement]


@dataclass(frozen=True)
class WindowJob:
    """Everything that defines a run over a long clip, for all layouts of windows."""

    reconstruct_clip: Callable[[Clip], Scene]
    """Reconstructs the clip of one window, in any world and unit."""
    long_clip: LongClip
    """The clip to reconstruct."""
    windows: Sequence[Window]
    """Layout of the windows."""
    method: AlignmentMethod
    """How each window is aligned to its partner."""
    static_below: float
    """Dynamic probability from which pixels are not used for alignment."""
    adjust_placement: AdjustPlacement | None
    """Called once all windows are placed; returns the final placement, for example with closed loops."""
    keep_tracks: bool
    """Whether to keep the tracks of a window's first frame."""
    track_stride: int
    """Distance in pixels between the queries in the clip's first frame whose tracks are stitched; 0 stitches none."""
    share_intrinsics: bool
    """Whether all frames get the median intrinsics of all windows."""
    given_cameras: Float[Tensor, "time 4 4"] | None
    """Given camera-to-world transforms (time, 4, 4) relative to the first given camera, in float64; NaN for frames
    without. None if none is given."""
    info: SceneInfo
    """Description of the run."""
    progress: bool
    """Whether to show progress bars on stderr."""


def run_job(job: WindowJob, folder: Path) -> LongScene:
    """Reconstruct a long clip; steps that an earlier call has finished are not repeated.

    Args:
        job: The run.
        folder: The output folder; it must be missing, empty, or belong to the same run.

    Returns:
        The index of the long clip in `folder`.

    Raises:
        UserError: If the folder is not suitable, or a window cannot be aligned.
        ValueError: If ``job.reconstruct_clip`` returns a scene that does not fit its clip.
    """
    work = open_work_folder(folder, job.info)
    if not (folder / INDEX_FILE_NAME).exists():
        placement = work.load_placement()
        if placement is None:
            _reconstruct_windows(job, work, folder)
            work = replace(work, shared_intrinsics=_shared_intrinsics(job, work))
            _align_windows(job, work)
            placement = _compute_placement(job, work)
            work.save_placement(placement)
        _write_frames(job, replace(work, shared_intrinsics=placement.shared_intrinsics), placement, folder)
        save_index(folder, _index(job, placement, folder))
    if work.path.exists():
        work.remove()
    return load_index(folder)


def _reconstruct_windows(job: WindowJob, work: WorkFolder, folder: Path) -> None:
    """Reconstruct and store every window, after the images of the frames that it owns."""
    remaining = [window for window in job.windows if not work.has_window_scene(window)]
    with _progress_bar(job, "windows", len(job.windows), len(job.windows) - len(remaining)) as bar:
        for window, clip in zip(remaining, read_windows(job.long_clip, remaining), strict=True):
            scene = _reconstruct(job, window, clip)
            for frame, position in zip(window.owned, window.positions(window.owned), strict=True):
                save_image(folder, frame, clip.images[position])
            work.save_window_scene(window, scene)
            _overlap(job, window, work)  # fails now rather than after all windows if the window cannot be aligned
            bar.update()


def _reconstruct(job: WindowJob, window: Window, clip: Clip) -> Scene:
    """Reconstruct one window. Exceptions get a note that names the window."""
    try:
        scene = job.reconstruct_clip(clip)
    except Exception as error:
        error.add_note(f"in {window}; earlier windows are stored, and the same call continues from there")
        raise
    if scene.batch_shape or scene.num_frames != len(window.frames):
        raise ValueError(
            f"the reconstruction of {window} has batch shape {tuple(scene.batch_shape)} and {scene.num_frames} frames; "
            f"expected one scene of {len(window.frames)} frames"
        )
    if job.track_stride:
        check_tracks(scene, job.track_stride, str(window))
    tracks = scene.tracks
    keep = job.keep_tracks and tracks is not None and tracks.anchors.tolist() == [0]
    scene = scene if keep else replace(scene, tracks=None)
    return apply_ignore_mask(scene.detach().to("cpu"), clip)


def _shared_intrinsics(job: WindowJob, work: WorkFolder) -> Float[Tensor, "3 3"]:
    """Return the median intrinsics of all frames; NaN if each frame keeps its own or all are given."""
    priors = job.long_clip.priors
    if not job.share_intrinsics or (priors is not None and priors.intrinsics.isfinite().all()):
        return torch.full((3, 3), torch.nan)
    intrinsics = [work.load_window_intrinsics(window.number) for window in job.windows]
    focals = torch.stack([matrices[:, 0, 0].median() for matrices in intrinsics])
    if focals.max() > FOCAL_DRIFT * focals.min():
        warnings.warn(
            f"the focal lengths of windows range from {focals.min():.0f} to {focals.max():.0f} pixels, and the median "
            "is used for all frames; if the clip has a zoom, use lens='each'",
            stacklevel=2,
        )
    return torch.cat(intrinsics).double().quantile(0.5, dim=0)


def _align_windows(job: WindowJob, work: WorkFolder) -> None:
    """Compute and store the alignment of every window."""
    remaining = [window for window in job.windows if not work.has_alignment(window)]
    with _progress_bar(job, "alignments", len(job.windows), len(job.windows) - len(remaining)) as bar:
        for window in remaining:
            work.save_alignment(window, _align(job, window, work))
            bar.update()


def _align(job: WindowJob, window: Window, work: WorkFolder) -> WindowAlignment:
    overlap = _overlap(job, window, work)
    if overlap is None:
        return WindowAlignment(
            torch.eye(4, dtype=torch.double), 0.0, float(work.load_window_scene(window.number).metres_per_unit)
        )
    alignment = job.method.fit(*overlap)
    if alignment.error > POOR_ERROR:
        assert window.partner is not None
        warnings.warn(
            f"{window} fits {job.windows[window.partner]} poorly: their shared points differ by {alignment.error:.0%} "
            "of the depth",
            stacklevel=2,
        )
    return alignment


def _overlap(job: WindowJob, window: Window, work: WorkFolder) -> tuple[Scene, Scene, Pixels] | None:
    """Return the shared frames of a window and of its partner, and the pixels to align them by; None for no partner."""
    if window.partner is None:
        return None
    partner = job.windows[window.partner]
    own_scene = work.load_window_scene(window.number).frames(window.positions(window.shared))
    partner_scene = work.load_window_scene(partner.number).frames(partner.positions(window.shared))
    if own_scene.size != partner_scene.size:
        raise ValueError(
            f"the maps of {window} have size {own_scene.size} and those of {partner} have size {partner_scene.size}; "
            "all windows need the same size"
        )
    try:
        return own_scene, partner_scene, job.method.select(own_scene, partner_scene, job.static_below)
    except TooFewPixelsError as error:
        raise UserError(
            f"{window} cannot be aligned to {partner}: the frames that both contain have {error}. Finished windows are "
            f"stored. Continue with a higher static_below (now {job.static_below:g}) if static pixels are predicted to "
            "be dynamic, start again with a larger overlap, or reconstruct the two parts of the clip separately"
        ) from error


def _compute_placement(job: WindowJob, work: WorkFolder) -> WindowPlacement:
    """Place every window in the world of the clip's first camera, by given cameras or by the chain of alignments."""
    alignments = [work.load_alignment(window) for window in job.windows]
    if job.given_cameras is None:
        world_from_window = _place_by_alignments(job.windows, alignments, work.load_window_scene(0))
    else:
        world_from_window = place_by_cameras(job.windows, alignments, work.load_window_scene, job.given_cameras)
    errors = torch.tensor([alignment.error for alignment in alignments], dtype=torch.double)
    placement = WindowPlacement(world_from_window, errors, math.nan, work.shared_intrinsics)
    placement = placement if job.adjust_placement is None else job.adjust_placement(placement, work)
    # A clip has one unit: the median over the estimates of all windows.
    meters = torch.tensor([alignment.metres_per_unit for alignment in alignments], dtype=torch.double)
    metres_per_unit = (meters / similarity_scale(placement.world_from_window)).nanmedian()
    return replace(placement, metres_per_unit=float(metres_per_unit))


def _place_by_alignments(
    windows: Sequence[Window], alignments: Sequence[WindowAlignment], first: Scene
) -> Float[Tensor, "window 4 4"]:
    world_from_window = [invert(first.cameras.world_from_cam[0].double())]
    for window, alignment in zip(windows[1:], alignments[1:], strict=True):
        assert window.partner is not None
        world_from_window.append(world_from_window[window.partner] @ alignment.partner_from_world)
    return torch.stack(world_from_window)


def _write_frames(job: WindowJob, work: WorkFolder, placement: WindowPlacement, folder: Path) -> None:
    """Write the file of every frame from the window that owns it; remove a window once its frames are written."""
    remaining = [window for window in job.windows if work.has_window_scene(window)]
    written = job.long_clip.num_frames - sum(len(window.owned) for window in remaining)
    with _progress_bar(job, "frames", job.long_clip.num_frames, written) as bar:
        for window in remaining:
            scene = work.load_window_scene(window.number)
            stitching = _load_stitching(job, window, work, scene)
            for frame, position in zip(window.owned, window.positions(window.owned), strict=True):
                frame_scene = scene.frames([position])
                if stitching is not None:
                    tracks = stitching.tracks_at(scene, position, is_first=frame == 0)
                    frame_scene = replace(frame_scene, tracks=tracks)
                frame_scene = _to_clip_world(
                    frame_scene, placement.world_from_window[window.number], placement.metres_per_unit
                )
                # Frames without a given camera keep the pose of their window, which follows those that are given.
                if job.given_cameras is not None and job.given_cameras[frame].isfinite().all():
                    exact = job.given_cameras[frame : frame + 1].to(frame_scene.depths.dtype)
                    frame_scene = frame_scene.with_cameras(replace(frame_scene.cameras, world_from_cam=exact))
                if stitching is not None:
                    stitching, frame_scene = stitching.update_last_points(frame_scene)
                save_frame(folder, frame, frame_scene, job.long_clip.times[frame], job.info)
                bar.update()
            if stitching is not None and window is not job.windows[-1]:
                _save_stitching(stitching, scene, window, job.windows[window.number + 1], work)
            work.remove_window_scene(window)


def _load_stitching(job: WindowJob, window: Window, work: WorkFolder, scene: Scene) -> StitchedTracks | None:
    """Return the state of the stitched tracks at the beginning of a window; None if no tracks are stitched."""
    if not job.track_stride:
        return None
    return work.load_stitching(window) if window.number else begin_stitching(scene.size, job.track_stride)


def _save_stitching(
    stitching: StitchedTracks, scene: Scene, window: Window, next_window: Window, work: WorkFolder
) -> None:
    """Store the state of the stitched tracks for the next window. `scene` is the reconstruction of `window`."""
    (position,) = window.positions(next_window.frames[:1])
    next_scene = work.load_window_scene(next_window.number)
    work.save_stitching(next_window, stitching.continue_in(scene, position, next_scene))


def _to_clip_world(scene: Scene, world_from_window: Tensor, metres_per_unit: float) -> Scene:
    """Transform a scene of one frame to the world of the clip, computed in float64."""
    transformed = scene.to(dtype=torch.double).transformed(world_from_window).to(dtype=torch.float32)
    return replace(transformed, metres_per_unit=torch.tensor(metres_per_unit, dtype=torch.float32))


def _index(job: WindowJob, placement: WindowPlacement, folder: Path) -> LongScene:
    owners = torch.tensor([window.number for window in job.windows for _ in window.owned])
    return LongScene(
        cameras=load_frame_cameras(folder, range(job.long_clip.num_frames)),
        times=torch.tensor(job.long_clip.times),
        size=load_frames(folder, [0]).size,
        windows=owners,
        world_from_window=placement.world_from_window,
        errors=placement.errors,
        metres_per_unit=placement.metres_per_unit,
        info=job.info,
    )


def _progress_bar(job: WindowJob, description: str, total: int, finished: int) -> "tqdm":
    """Create a bar on stderr; its remaining time ignores steps that an earlier call has finished."""
    from tqdm import tqdm

    return tqdm(total=total, initial=finished, desc=description, unit=description[:-1], disable=not job.progress)
