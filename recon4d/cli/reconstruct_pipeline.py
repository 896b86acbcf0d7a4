"""`recon4d reconstruct` for one clip: read it, add priors, run the network, refine, write the results."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recon4d.cli.arguments import check_outside, find_device, find_kernel, find_model
from recon4d.cli.capture import measure_unit, read_clip_with_priors
from recon4d.cli.long_clips import reconstruct_in_parts
from recon4d.cli.network_options import (
    choose_camera_source,
    chosen_reference_view,
    describe_metric_fit,
    metric_model,
)
from recon4d.cli.progress import StageProgress
from recon4d.cli.reconstruct_options import ReconstructOptions
from recon4d.runs.formatting import describe_results
from recon4d.runs.refinement_step import check_refinement, keep_prediction, refine
from recon4d.runs.run_info import scene_info

if TYPE_CHECKING:
    from recon4d.inference import ReconstructConfig
    from recon4d.models import SceneModel
    from recon4d.records import Clip, FeatureTracks, Scene
    from recon4d.runs.run_info import Settings

    ClipPath = Path | tuple[Path, ...]

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
        return reconstruct_in_parts(path, out, options, settings, load_model)
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
        refinement = refine(clip, scene, matches, options.refine, progress, options.map_side(clip.size))
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
    scene = _enlarged(clip, scene, options)
    if options.motions:
        progress.start("motions")
        scene = _with_motions(model, clip, scene, options, progress)

    progress.start("writing")
    info = scene_info(model, clip, calibration, settings)
    summary = None if refinement is None else refinement.summary
    info = replace(info, refinement=summary, camera_report=tuple(camera_report))
    with atomic_folder(out, options.overwrite) as folder:
        write_results(folder, clip, scene, info, half_maps=options.archive_precision == "float16")
    progress.print(describe_results(out, scene))
    return clip.num_frames


def _enlarged(clip: "Clip", scene: "Scene", options: ReconstructOptions) -> "Scene":
    """Enlarge maps that refinement has not enlarged yet; with --full-resolution, small clips get smaller maps."""
    from recon4d.refine import output_size, upsample_scene

    side = options.map_side(clip.size)
    if options.full_resolution and max(scene.size) >= max(clip.size):
        return scene.resized(*clip.size)
    return scene if side is None else upsample_scene(scene, clip, output_size(clip.size, scene.size, side))


def _with_motions(
    model: "SceneModel", clip: "Clip", scene: "Scene", options: ReconstructOptions, progress: StageProgress
) -> "Scene":
    """Sample motions of the tracks of a scene."""
    from recon4d.inference import sample_motions
    from recon4d.zoo import load_motion_flow

    started = time.perf_counter()
    flow = None if options.motion_weights is None else load_motion_flow(options.motion_weights)
    scene = sample_motions(model, clip, options.motions, scene=scene, flow=flow)
    curves = scene.trajectories
    assert curves is not None
    seconds = time.perf_counter() - started
    progress.print(f"{options.motions} motions of {curves.num_curves} points that move in {seconds:.1f} s")
    return scene


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
    from recon4d.inference import predict_scene, reconstruct_and_match
    from recon4d.layers import attention_kernel

    config = replace(options.single_pass, on_progress=progress.advance, on_rig=camera_report.append)
    num_lines = len(camera_report)
    if model.num_parameters() > LARGE_MODEL:
        progress.print(_describe_memory(model, clip, config))
    started = time.perf_counter()
    with chosen_reference_view(model, options, clip.times):
        scene, matches = (
            reconstruct_and_match(model, clip, config) if is_refined else (predict_scene(model, clip, config), None)
        )
    seconds, device = time.perf_counter() - started, model.device
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
    is_bfloat16 = runs_in_bfloat16(config.precision, model.device)
    plan = plan_memory(model, clip.num_frames, size, len(config.anchors), config.frame_chunk, is_bfloat16)
    return f"{model.name} needs about {plan}"
