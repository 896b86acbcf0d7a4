"""Reading of a clip with its priors in `recon4d reconstruct`, with panoramas split into views."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recon4d.cli.progress import StageProgress
from recon4d.cli.reconstruct_options import ReconstructOptions
from recon4d.errors import UserError, one_line
from recon4d.runs.formatting import describe_clip, describe_input, describe_priors

if TYPE_CHECKING:
    from recon4d.io.gps import GpsPositions
    from recon4d.io.panoramas import PanoramaConfig
    from recon4d.records import Clip, Scene

MIN_PANORAMAS = 2
"""Smallest number of panoramas that --num-frames auto takes, if there are so many: one has no parallax."""


def read_clip_with_priors(
    path: Path | tuple[Path, ...], options: ReconstructOptions, progress: StageProgress, camera_report: list[str]
) -> "tuple[Clip, GpsPositions | None]":
    """Read a clip and its priors.

    Args:
        path: A video, a picture or a folder of pictures, or several pictures.
        options: The options of the command.
        progress: The line to print to.
        camera_report: Receives lines about what was read of cameras.

    Returns:
        The clip, with panoramas split into views, and the GPS positions of its frames if they give the unit.

    Raises:
        UserError: If the clip or a prior is unsuitable.
    """
    from recon4d.inference import with_prior_files
    from recon4d.inference.metric_positions import check_gps, find_baseline
    from recon4d.io.gps import read_gps

    config = options.capture.panorama_config
    clip = _read(path, options, config, camera_report)
    gps = None
    if options.capture.gps:
        gps = read_gps(clip)
        check_gps(gps)
    if options.capture.baseline is not None:
        find_baseline(clip, *options.capture.baseline[:2])  # raises before anything is computed
    progress.print(describe_clip(describe_input(path), clip, options.fps))
    clip = with_prior_files(clip, options.prior_files, camera_report.append)
    if config is not None:
        clip = _split(clip, config, camera_report)
        gps = gps if gps is None else gps.repeated(config.num_views)
    for line in camera_report:
        progress.print(line)
    if clip.priors is not None:
        progress.print(describe_priors(clip.priors))
    return clip, gps


def measure_unit(
    clip: "Clip", scene: "Scene", gps: "GpsPositions | None", options: ReconstructOptions
) -> "tuple[Scene, str]":
    """Set the length of the unit by GPS positions or a known distance, if the options say so.

    Args:
        clip: The clip.
        scene: Its scene.
        gps: Positions of its frames, for --gps.
        options: The options of the command.

    Returns:
        The scene with the length of its unit, and a line for the user; the scene itself and "" without these options.
        If the cameras do not allow it, the line gives the reason, and the unit stays as it is.
    """
    from recon4d.inference.metric_positions import baseline_scale, fit_gps_scale, with_metric_unit

    if gps is None and options.capture.baseline is None:
        return scene, ""
    try:
        if gps is not None:
            fit = fit_gps_scale(scene, gps)
            return with_metric_unit(scene, fit.metres_per_unit), str(fit)
        assert options.capture.baseline is not None
        first, second, meters = options.capture.baseline
        unit = baseline_scale(scene, clip, first, second, meters)
    except UserError as error:  # the reconstruction, which may have taken long, is kept
        return scene, f"warning: the length of the unit stays unknown: {one_line(error)}"
    return with_metric_unit(scene, unit), f"baseline from {first} to {second}: the unit is {unit:.3g} m long"


def _read(
    path: Path | tuple[Path, ...],
    options: ReconstructOptions,
    config: "PanoramaConfig | None",
    camera_report: list[str],
) -> "Clip":
    from recon4d.io import read_clip

    if options.capture.rig:
        from recon4d.io.rigs import read_rig

        assert isinstance(path, Path)
        clip, report = read_rig(path, options.num_frames, options.fps)
        camera_report.append(report)
        return clip
    num_frames = _num_frames(path, options) if config is None else _num_panoramas(options, config)
    return read_clip(
        path,
        num_frames,
        options.fps,
        options.start,
        options.stop,
        options.keep_cuts,
        keep_panoramas=options.capture.panorama is not None,
    )


def _num_frames(path: Path | tuple[Path, ...], options: ReconstructOptions) -> int | Literal["auto"] | None:
    """The number of frames to read: all frames of a short video if cameras are known, because each camera counts."""
    if options.cameras is None or options.num_frames != "auto" or not isinstance(path, Path) or path.is_dir():
        return options.num_frames
    from recon4d.io.cameras.pairing import count_frames
    from recon4d.io.motion import MAX_AUTO_FRAMES
    from recon4d.records import ClipSource

    total = count_frames(ClipSource(str(path), (), ()))
    return None if total is not None and total <= MAX_AUTO_FRAMES else "auto"


def _num_panoramas(options: ReconstructOptions, config: "PanoramaConfig") -> int:
    """The number of panoramas to read: as many as give the usual number of frames."""
    if options.num_frames != "auto":
        return options.num_frames
    from recon4d.io.motion import MAX_AUTO_FRAMES

    return max(MIN_PANORAMAS, MAX_AUTO_FRAMES // config.num_views)


def _split(clip: "Clip", config: "PanoramaConfig", camera_report: list[str]) -> "Clip":
    from recon4d.io.panoramas import split_panoramas

    views = split_panoramas(clip, config)
    height, width = views.size
    count = "1 panorama is" if clip.num_frames == 1 else f"{clip.num_frames} panoramas are"
    camera_report.append(
        f"panoramas: {count} split into {config.num_views} views of {width} x {height} pixels and "
        f"{config.field_of_view:g} degrees each, with exact intrinsics and known relative poses"
    )
    return views
