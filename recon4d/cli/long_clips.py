"""`recon4d reconstruct` for one clip of any length: in windows, refined if possible, or paired with the first frame."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recon4d.cli.arguments import check_outside
from recon4d.cli.network_options import chosen_reference_view
from recon4d.cli.reconstruct_options import ReconstructOptions
from recon4d.errors import UserError
from recon4d.runs.formatting import describe_priors
from recon4d.runs.refinement_info import describe_windows
from recon4d.runs.refinement_step import ANCHORED_REASON, check_refinement
from recon4d.runs.run_info import scene_info

if TYPE_CHECKING:
    from recon4d.io import SceneInfo
    from recon4d.io.long_archive import LongScene
    from recon4d.io.long_clips import LongClip
    from recon4d.models import SceneModel
    from recon4d.records import Clip, Scene
    from recon4d.refine import Refinement
    from recon4d.runs.run_info import Settings


def reconstruct_in_parts(
    path: "Path | tuple[Path, ...]",
    out: Path,
    options: ReconstructOptions,
    settings: "Settings",
    load_model: Callable[[], "SceneModel"],
) -> int:
    """Reconstruct a clip of any length; the same call continues a run that was stopped.

    Args:
        path: A video, a picture or a folder of pictures, or several pictures.
        out: The folder to write.
        options: The options of the command.
        settings: Settings to store with the scene.
        load_model: Returns the model; called once the clip has been opened.

    Returns:
        The number of frames.

    Raises:
        UserError: If the clip, the priors or the output folder are unsuitable.
    """
    import torch

    from recon4d.inference import long_clip_with_prior_files
    from recon4d.io.long_clips import open_long_clip

    for given in [path] if isinstance(path, Path) else path:
        check_outside(given, out)
    num_frames = None if options.num_frames == "auto" else options.num_frames
    clip = open_long_clip(path, options.fps, options.start, options.stop, num_frames)
    camera_report: list[str] = []
    clip = long_clip_with_prior_files(clip, options.prior_files, camera_report.append)
    for line in camera_report:
        print(line)
    if options.prior_files.has_any:
        print(_describe_long_priors(clip))
    is_refined = _check_refinement(clip, options)
    model = load_model()
    info = replace(scene_info(model, clip, model.calibration, settings), camera_report=tuple(camera_report))
    started = time.perf_counter()
    with chosen_reference_view(model, options, torch.tensor(clip.times)):
        index = _run(model, clip, out, options, info, is_refined)
    seconds = time.perf_counter() - started
    for line in describe_windows(index.refinements):
        print(line)
    (height, width), error = index.size, 100 * float(index.errors.nanmedian())
    print(
        f"{out}: {clip.num_frames} frames of {width} x {height} pixels and pictures in frames/, cameras in index.npz, "
        f"in {seconds:.1f} s; median alignment error between windows: {error:.1f} % of the depth"
    )
    return clip.num_frames


def _check_refinement(clip: "LongClip", options: ReconstructOptions) -> bool:
    """Return whether windows are refined; print the reason if they are not although refinement is not off."""
    if options.refine == "off":
        return False
    if options.long.anchored:
        reason = ANCHORED_REASON
    elif clip.depths is None:
        reason = check_refinement(clip.placeholder_clip, options.refine)
    else:
        reason = "the depth of this clip is given, and refinement would change it"
        if options.refine == "on":
            raise UserError(f"{reason}: give no depth, or do not refine")
    print("each window is refined" if reason is None else f"cameras are as predicted: {reason}")
    return reason is None


def _describe_long_priors(clip: "LongClip") -> str:
    maps = [("masks", clip.ignore), ("depth", clip.depths)]
    parts = [f"{name}, read frame by frame" for name, reader in maps if reader is not None]
    priors = clip.priors
    if priors is not None and (priors.intrinsics.isfinite().any() or priors.world_from_cam.isfinite().any()):
        return ", ".join([describe_priors(priors), *parts])
    return f"priors: {', '.join(parts)}"


def _run(
    model: "SceneModel",
    clip: "LongClip",
    out: Path,
    options: ReconstructOptions,
    info: "SceneInfo",
    is_refined: bool,
) -> "LongScene":
    from recon4d.inference import predict_scene, reconstruct_and_match
    from recon4d.inference.windows import (
        AnchorConfig,
        LoopConfig,
        WindowConfig,
        reconstruct_anchored,
        reconstruct_windows,
        refine_windows,
    )
    from recon4d.refine import refine_clip

    long, progress = options.long, sys.stderr.isatty()
    # Anchored: the clip's first frame is the anchor of every part. Windows: tracks start at each window's first frame
    # and are stitched.
    config = replace(options.single_pass, anchors=(0,) if long.anchored or long.tracks else ())

    def reconstruct_window(window: "Clip") -> "Scene":
        return predict_scene(model, window, config)

    def refine_window(window: "Clip") -> "Refinement":
        return refine_clip(window, *reconstruct_and_match(model, window, config))

    if long.anchored:
        return reconstruct_anchored(reconstruct_window, clip, out, info, AnchorConfig(lens=long.lens), progress)
    loops = LoopConfig() if long.loops else None
    windows = WindowConfig(long.window, long.overlap, long.static_below, loops, long.lens, long.tracks)
    if is_refined:
        return refine_windows(refine_window, clip, out, info, windows, progress, print)
    return reconstruct_windows(reconstruct_window, clip, out, info, windows, progress)
