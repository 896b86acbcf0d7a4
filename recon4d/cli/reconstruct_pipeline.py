"""`recon4d reconstruct` for one clip: read it, add priors, run the network, refine, write the results."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recon4d.cli.arguments import check_outside, find_device, find_kernel, find_model
from recon4d.cli.capture import measure_unit, read_clip_with_priors
from recon4d.cli.formatting import describe_priors, describe_results
from recon4d.cli.network_options import (
    choose_camera_source,
    chosen_reference_view,
    describe_metric_fit,
    metric_model,
)
from recon4d.cli.progress import StageProgress
from recon4d.cli.reconstruct_options import ReconstructOptions
from recon4d.cli.refinement_step import LONG_CLIP_REASON, check_refinement, keep_prediction, refine

if TYPE_CHECKING:
    from recon4d.inference import ReconstructConfig
    from recon4d.io import SceneInfo
    from recon4d.io.long_archive import LongScene
    from recon4d.io.long_clips import LongClip
    from recon4d.models import SceneModel
    from recon4d.records import Calibration, Clip, FeatureTracks, Scene

    ClipPath = Path | tuple[Path, ...]
    Settings = dict[str, str | int | float | bool | list | None]

LARGE_MODEL = 100_000_000
"""Number of parameters from which the expected memory is printed before the pass. Hand-tuned."""


def prepare_model(options: ReconstructOptions, device_name: str) -> "SceneModel":
    """Create or load the model, ready to run.

    Args:
        options: The options of the command.
        device_name: Device as `find_device` takes it.

    Returns:
        The model on the device with the requested attention kernel, in bfloat16 if it runs in bfloat16, compiled if
        requested.

    Raises:
        UserError: If the device, the attention kernel or the model cannot be used.
    """
    from recon4d.inference import runs_in_bfloat16
    from recon4d.layers import set_attention_kernel
    from recon4d.models import cast_to_bfloat16, compile_blocks

    device = find_device(device_name)  # before the model, which may take minutes to load
    kernel = find_kernel(options.attention, device)
    model = find_model(options.model)
    set_attention_kernel(model, kernel)
    choose_camera_source(model, options)
    if runs_in_bfloat16(options.precision, device):
        cast_to_bfloat16(model)
    if options.compile:
        compile_blocks(model)
    return model.to(device)


def reconstruct_clip(
    path: "ClipPath",
    out: Path,
    options: ReconstructOptions,
    settings: "Settings",
    load_model: Callable[[], "SceneModel"],
) -> int:
    """Reconstruct one clip in a single pass, or in parts if the options say so, and write a folder of results.

    Args:
        path: A video, a picture or a folder of pictures, or several pictures.
        out: The folder to write.
        options: The options of the command.
        settings: Settings to store with the scene.
        load_model: Returns the model; called once the clip has been read, so that unsuitable clips fail early.

    Returns:
        The number of frames.

    Raises:
        UserError: If the clip, the priors or the output folder are unsuitable.
    """
    if options.long.is_enabled:
        return _reconstruct_in_parts(path, out, options, settings, load_model)
    from recon4d.io import check_output_folder

    check_output_folder(out, options.overwrite)
    for given in [path] if isinstance(path, Path) else path:
        check_outside(given, out)
    with StageProgress(options.refine != "off") as progress:
        return _reconstruct_in_one_pass(path, out, options, settings, load_model, progress)


def _reconstruct_in_one_pass(
    path: "ClipPath",
    out: Path,
    options: ReconstructOptions,
    settings: "Settings",
    load_model: Callable[[], "SceneModel"],
    progress: StageProgress,
) -> int:
    from recon4d.inference import fit_metric_scale
    from recon4d.io import atomic_folder, write_results

    progress.start("reading")
    _check_optional_packages(options)
    camera_report: list[str] = []
    clip, gps = read_clip_with_priors(path, options, progress, camera_report)
    if options.colmap_intrinsics:
        clip = _with_colmap_intrinsics(clip, progress)
    progress.expect_frames(clip.num_frames)
    obstacle = check_refinement(clip, options.refine)
    if obstacle is not None:
        progress.skip_refinement()

    model = load_model()
    metric = None if options.metric is None else metric_model(options.metric, options.device)
    progress.start("network")
    is_refined = options.refine != "off" and obstacle is None
    scene, matches = _run_network(model, clip, options, is_refined, progress, camera_report)
    calibration, refinement = model.calibration, None
    if matches is not None:
        refinement = refine(clip, scene, matches, options.refine, progress)
        camera_report += [refinement.rig_report] if refinement.rig_report else []
        # If lens distortion was found, the refined scene is that of undistorted images.
        clip, scene = refinement.clip or clip, refinement.scene
        calibration = refinement.calibration(calibration)
    elif obstacle is not None:
        refinement = keep_prediction(clip, scene, obstacle, progress)
    if metric is not None:
        progress.start("metric scale")
        fit = fit_metric_scale(metric, clip, scene, options.single_pass)
        scene = fit.scene
        progress.print(describe_metric_fit(metric, fit))
    scene, unit_report = measure_unit(clip, scene, gps, options)
    if unit_report:
        camera_report.append(unit_report)
        progress.print(unit_report)
    if options.full_resolution:
        scene = scene.resized(*clip.size)

    progress.start("writing")
    info = _scene_info(model, clip, calibration, settings)
    summary = None if refinement is None else refinement.summary
    info = replace(info, refinement=summary, camera_report=tuple(camera_report))
    with atomic_folder(out, options.overwrite) as folder:
        write_results(folder, clip, scene, info)
    progress.print(describe_results(out, scene))
    return clip.num_frames


def _check_optional_packages(options: ReconstructOptions) -> None:
    """Check that pycolmap can be imported if the options require it, before anything is computed."""
    if options.refine == "on" or options.colmap_intrinsics:
        from recon4d.refine import load_pycolmap

        load_pycolmap()


def _with_colmap_intrinsics(clip: "Clip", progress: StageProgress) -> "Clip":
    """Add the focal length that COLMAP estimates; print the reason and return the same clip if it fails."""
    from recon4d.eval import with_colmap_intrinsics
    from recon4d.refine import ColmapFailure

    progress.start("estimating the focal length")
    started = time.perf_counter()
    try:
        clip = with_colmap_intrinsics(clip)
    except ColmapFailure as failure:
        progress.print(f"COLMAP estimated no focal length, the network predicts it: {failure}")
        return clip
    assert clip.priors is not None
    focal, seconds = float(clip.priors.intrinsics[0, 0, 0]), time.perf_counter() - started
    progress.print(f"COLMAP: focal length of {focal:.0f} pixels in {seconds:.1f} s")
    return clip


def _run_network(
    model: "SceneModel",
    clip: "Clip",
    options: "ReconstructOptions",
    is_refined: bool,
    progress: StageProgress,
    camera_report: list[str],
) -> "tuple[Scene, FeatureTracks | None]":
    """Run a single pass over the clip; feature tracks come with it if they are needed for refinement."""
    from recon4d.inference import reconstruct, reconstruct_and_match
    from recon4d.layers import attention_kernel

    config = replace(options.single_pass, on_progress=progress.advance, on_rig=camera_report.append)
    num_lines = len(camera_report)
    if model.num_parameters() > LARGE_MODEL:
        progress.print(_describe_memory(model, clip, config))
    started = time.perf_counter()
    with chosen_reference_view(model, options, clip.times):
        scene, matches = (
            reconstruct_and_match(model, clip, config) if is_refined else (reconstruct(model, clip, config), None)
        )
    seconds, device = time.perf_counter() - started, next(model.parameters()).device
    progress.print(
        f"{model.name} on {device} with {attention_kernel(model)} attention: "
        f"{scene.size[1]} x {scene.size[0]} pixels in {seconds:.1f} s"
    )
    for line in camera_report[num_lines:]:
        progress.print(line)
    return scene, matches


def _describe_memory(model: "SceneModel", clip: "Clip", config: "ReconstructConfig") -> str:
    from recon4d.inference import processing_size, runs_in_bfloat16
    from recon4d.models import plan_memory

    size = processing_size(clip.size, config.processing_size or model.config.processing_size, model.patch_size)
    is_bfloat16 = runs_in_bfloat16(config.precision, next(model.parameters()).device)
    plan = plan_memory(model, clip.num_frames, size, len(config.anchors), config.frame_chunk, is_bfloat16)
    return f"{model.name} needs about {plan}"


def _scene_info(
    model: "SceneModel", clip: "Clip | LongClip", calibration: "Calibration | None", settings: "Settings"
) -> "SceneInfo":
    from recon4d import __version__
    from recon4d.inference import assumptions
    from recon4d.io import SceneInfo

    return SceneInfo(
        model=model.name,
        trained=model.trained,
        version=__version__,
        source=clip.source,
        original_size=clip.size,
        settings=settings,
        calibration=calibration,
        assumptions=assumptions(model, clip),
    )


def _reconstruct_in_parts(
    path: "ClipPath",
    out: Path,
    options: ReconstructOptions,
    settings: "Settings",
    load_model: Callable[[], "SceneModel"],
) -> int:
    """Reconstruct a clip of any length; the same call continues a run that was stopped."""
    import torch

    from recon4d.inference import long_clip_with_prior_files
    from recon4d.io.long_clips import open_long_clip

    for given in [path] if isinstance(path, Path) else path:
        check_outside(given, out)
    clip = open_long_clip(path, options.fps, options.start, options.stop)
    camera_report: list[str] = []
    clip = long_clip_with_prior_files(clip, options.prior_files, camera_report.append)
    for line in camera_report:
        print(line)
    if options.prior_files.has_any:
        print(_describe_long_priors(clip))
    if options.refine == "auto":
        print(f"cameras are as predicted: {LONG_CLIP_REASON}")
    model = load_model()
    info = replace(_scene_info(model, clip, model.calibration, settings), camera_report=tuple(camera_report))
    started = time.perf_counter()
    with chosen_reference_view(model, options, torch.tensor(clip.times)):
        index = _run_windows(model, clip, out, options, info)
    seconds = time.perf_counter() - started
    (height, width), error = index.size, 100 * float(index.errors.nanmedian())
    print(
        f"{out}: {clip.num_frames} frames of {width} x {height} pixels and pictures in frames/, cameras in index.npz, "
        f"in {seconds:.1f} s; median alignment error between windows: {error:.1f} % of the depth"
    )
    return clip.num_frames


def _describe_long_priors(clip: "LongClip") -> str:
    maps = [("masks", clip.ignore), ("depth", clip.depths)]
    parts = [f"{name}, read frame by frame" for name, reader in maps if reader is not None]
    priors = clip.priors
    if priors is not None and (priors.intrinsics.isfinite().any() or priors.world_from_cam.isfinite().any()):
        return ", ".join([describe_priors(priors), *parts])
    return f"priors: {', '.join(parts)}"


def _run_windows(
    model: "SceneModel", clip: "LongClip", out: Path, options: ReconstructOptions, info: "SceneInfo"
) -> "LongScene":
    from recon4d.inference import reconstruct
    from recon4d.inference.windows import (
        AnchorConfig,
        LoopConfig,
        WindowConfig,
        reconstruct_anchored,
        reconstruct_windows,
    )

    long, progress = options.long, sys.stderr.isatty()
    # Anchored: the clip's first frame is the anchor of every part. Windows: tracks start at each window's first frame
    # and are stitched.
    anchors = (0,) if long.anchored or long.tracks else ()
    config = replace(options.single_pass, anchors=anchors)

    def reconstruct_window(window: "Clip") -> "Scene":
        return reconstruct(model, window, config)

    if long.anchored:
        return reconstruct_anchored(reconstruct_window, clip, out, info, AnchorConfig(lens=long.lens), progress)
    loops = LoopConfig() if long.loops else None
    windows = WindowConfig(long.window, long.overlap, long.static_below, loops, long.lens, long.tracks)
    return reconstruct_windows(reconstruct_window, clip, out, info, windows, progress)
