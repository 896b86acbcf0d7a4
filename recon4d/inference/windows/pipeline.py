"""Processing of the windows of a long clip: each is reconstructed, aligned to an earlier one, placed and written.

The steps communicate only through files that are written atomically. Memory is therefore bounded by two windows, and an
interrupted run can be resumed with a result that is identical bit for bit.
"""

import contextlib
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
from recon4d.inference.windows.frame_writing import FrameWriter
from recon4d.inference.windows.given_cameras import place_by_cameras
from recon4d.inference.windows.layout import Window, with_best_borders
from recon4d.inference.windows.lens_calibration import FOCAL_DRIFT, calibrate_lens, with_lens
from recon4d.inference.windows.refined_alignment import ALIGN_BY_CAMERAS
from recon4d.inference.windows.track_stitching import check_tracks
from recon4d.inference.windows.window_alignment import (
    AlignmentMethod,
    Pixels,
    TooFewPixelsError,
    WindowAlignment,
)
from recon4d.inference.windows.work_folder import WindowPlacement, WorkFolder, open_work_folder
from recon4d.io import SceneInfo
from recon4d.io.long_archive import INDEX_FILE_NAME, LongScene, load_index, save_image, save_index
from recon4d.io.long_clips import LongClip
from recon4d.records import Clip, RefinementSummary, Scene
from recon4d.refine import Refinement

if TYPE_CHECKING:
    from tqdm import tqdm

POOR_ERROR = 0.1
"""Median alignment error, as a fraction of depth, above which a warning is given. Hand-tuned."""

AdjustPlacement = Callable[[WindowPlacement, WorkFolder, LongClip], WindowPlacement]


@dataclass(frozen=True)
class WindowJob:
    """Everything that defines a run over a long clip, for all layouts of windows."""

    reconstruct_clip: Callable[[Clip], Scene | Refinement]
    """Reconstructs the clip of one window, in any world and unit, and possibly refines it."""
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
    calibrate: Callable[[Clip], Refinement] | None = None
    """Reconstructs and refines a window to calibrate the lens that all frames share; None does not calibrate it."""
    report: Callable[[str], None] | None = None
    """Called with a line on each refined window; None is silent."""

    @property
    def has_fixed_pixels(self) -> bool:
        """Whether all windows have the same images: none finds a lens distortion of its own."""
        priors = self.long_clip.priors
        return priors is not None and bool(priors.intrinsics.isfinite().all())


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
        job = _calibrate_lens(job, work)
        placement = work.load_placement()
        if placement is None:
            _reconstruct_windows(job, work, folder)
            work = replace(work, shared_intrinsics=_shared_intrinsics(job, work))
            _align_windows(job, work)
            placement = _compute_placement(job, work)
            work.save_placement(placement)
        work = replace(work, shared_intrinsics=placement.shared_intrinsics)
        job = _choose_borders(job, work)
        writer = _frame_writer(job, work, placement, folder)
        _write_frames(job, work, writer)
        save_index(folder, writer.index(job.windows))
    if work.path.exists():
        work.remove()
    return load_index(folder)


def _calibrate_lens(job: WindowJob, work: WorkFolder) -> WindowJob:
    """Give all frames the lens that some windows determine, unless intrinsics are given or each frame keeps its own."""
    priors = job.long_clip.priors
    has_intrinsics = priors is not None and bool(priors.intrinsics.isfinite().any())
    if job.calibrate is None or has_intrinsics or len(job.windows) < 2:
        return job
    lens = work.load_lens()
    if lens is None:
        lens = calibrate_lens(job.calibrate, job.long_clip, job.windows)
        work.save_lens(lens)
        _report(job, f"lens of all windows: {lens}")
    return replace(job, long_clip=with_lens(job.long_clip, lens)) if lens.is_known else job


def _reconstruct_windows(job: WindowJob, work: WorkFolder, folder: Path) -> None:
    """Reconstruct and store every window, after the images of the frames that it owns."""
    remaining = [window for window in job.windows if not work.has_window_scene(window)]
    with _progress_bar(job, "windows", len(job.windows), len(job.windows) - len(remaining)) as bar:
        for window, clip in zip(remaining, read_windows(job.long_clip, remaining), strict=True):
            scene, images, summary = _reconstruct(job, window, clip)
            for frame, position in zip(window.owned, window.positions(window.owned), strict=True):
                save_image(folder, frame, images[position])
            work.save_window_scene(window, scene, summary)
            _overlap(job, window, work)  # fails now rather than after all windows if the window cannot be aligned
            bar.update()


def _reconstruct(job: WindowJob, window: Window, clip: Clip) -> tuple[Scene, Tensor, RefinementSummary | None]:
    """Reconstruct one window; return its scene, the images that it is of, and how it was refined."""
    try:
        result = job.reconstruct_clip(clip)
    except Exception as error:
        error.add_note(f"in {window}; earlier windows are stored, and the same call continues from there")
        raise
    if not isinstance(result, Refinement):
        return _check_scene(job, window, clip, result), clip.images, None
    _report(job, f"{window}: {result}")
    clip = result.clip or clip
    return _check_scene(job, window, clip, result.scene), clip.images, result.summary


def _check_scene(job: WindowJob, window: Window, clip: Clip, scene: Scene) -> Scene:
    """Check the scene of a window, drop tracks that are not kept, and apply the mask of its clip."""
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
    """Return the median intrinsics of all frames; NaN if each frame keeps its own, or any are refined or all given."""
    priors = job.long_clip.priors
    is_refined = any(_is_refined(window, work) for window in job.windows)
    if not job.share_intrinsics or is_refined or (priors is not None and priors.intrinsics.isfinite().all()):
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
    alignment = _method(job, window, work).fit(*overlap)
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
    method = _method(job, window, work)
    try:
        return own_scene, partner_scene, method.select(own_scene, partner_scene, job.static_below)
    except TooFewPixelsError as error:
        if any(_is_refined(one, work) for one in (window, partner)):
            scenes = _with_unknown_frames(own_scene), _with_unknown_frames(partner_scene)
            with contextlib.suppress(TooFewPixelsError):
                return *scenes, method.select(*scenes, job.static_below)
        raise UserError(
            f"{window} cannot be aligned to {partner}: the frames that both contain have {error}. Finished windows are "
            f"stored. Continue with a higher static_below (now {job.static_below:g}) if static pixels are predicted to "
            "be dynamic, start again with a larger overlap, or reconstruct the two parts of the clip separately"
        ) from error


def _with_unknown_frames(scene: Scene) -> Scene:
    """Use frames whose cameras refinement could not determine: they still have depth, and a predicted camera."""
    is_unknown = ~(scene.depth_confidence > 0).any(dim=2).any(dim=1)
    confidence = torch.where(is_unknown[:, None, None], 1.0, scene.depth_confidence)
    return replace(scene, depth_confidence=confidence)


def _method(job: WindowJob, window: Window, work: WorkFolder) -> AlignmentMethod:
    """Return how a window is aligned to its partner: two refined windows by their cameras."""
    if job.given_cameras is not None or window.partner is None:
        return job.method
    both = (window, job.windows[window.partner])
    return ALIGN_BY_CAMERAS if all(_is_refined(one, work) for one in both) else job.method


def _is_refined(window: Window, work: WorkFolder) -> bool:
    summary = work.load_summary(window)
    return summary is not None and summary.is_accepted


def _compute_placement(job: WindowJob, work: WorkFolder) -> WindowPlacement:
    """Place every window in the world of the clip's first camera, by given cameras or by the chain of alignments."""
    alignments = [work.load_alignment(window) for window in job.windows]
    if job.given_cameras is None:
        world_from_window = _place_by_alignments(job.windows, alignments, work.load_window_scene(0))
    else:
        world_from_window = place_by_cameras(job.windows, alignments, work.load_window_scene, job.given_cameras)
    errors = torch.tensor([alignment.error for alignment in alignments], dtype=torch.double)
    placement = WindowPlacement(world_from_window, errors, math.nan, work.shared_intrinsics)
    if job.adjust_placement is not None:
        placement = job.adjust_placement(placement, work, job.long_clip)
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


def _choose_borders(job: WindowJob, work: WorkFolder) -> WindowJob:
    """Take shared frames from the window that determines them, if only one of two windows does."""
    summaries = [work.load_summary(window) for window in job.windows]
    if job.track_stride or not job.has_fixed_pixels or all(summary is None for summary in summaries):
        return job
    unknown = [
        set(window.frames)
        if summary is None or not summary.is_accepted
        else {window.frames[position] for position in summary.unknown_frames}
        for window, summary in zip(job.windows, summaries, strict=True)
    ]
    return replace(job, windows=with_best_borders(job.windows, unknown))


def _frame_writer(job: WindowJob, work: WorkFolder, placement: WindowPlacement, folder: Path) -> FrameWriter:
    lens = work.load_lens()
    distortion = lens.distortion if lens is not None and lens.has_distortion else None
    return FrameWriter(
        folder, work, job.long_clip, job.info, placement, job.given_cameras, job.track_stride, distortion
    )


def _write_frames(job: WindowJob, work: WorkFolder, writer: FrameWriter) -> None:
    """Write the file of every frame from the window that owns it; remove a window once its frames are written."""
    remaining = [window for window in job.windows if work.has_window_scene(window)]
    written = job.long_clip.num_frames - sum(len(window.owned) for window in remaining)
    with _progress_bar(job, "frames", job.long_clip.num_frames, written) as bar:
        for window in remaining:
            writer.write(window, None if window is job.windows[-1] else job.windows[window.number + 1])
            bar.update(len(window.owned))
            work.remove_window_scene(window)


def _report(job: WindowJob, line: str) -> None:
    """Report a line in place of the progress bars."""
    from tqdm import tqdm

    if job.report is not None:
        with tqdm.external_write_mode():
            job.report(line)


def _progress_bar(job: WindowJob, description: str, total: int, finished: int) -> "tqdm":
    """Create a bar on stderr; its remaining time ignores steps that an earlier call has finished."""
    from tqdm import tqdm

    return tqdm(total=total, initial=finished, desc=description, unit=description[:-1], disable=not job.progress)
