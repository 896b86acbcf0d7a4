"""Reading of a clip with its priors in `recon4d reconstruct`, with panoramas split into views."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recon4d.cli.formatting import describe_clip, describe_input, describe_priors
from recon4d.cli.progress import StageProgress
from recon4d.cli.reconstruct_options import ReconstructOptions

if TYPE_CHECKING:
    from recon4d.io.panoramas import PanoramaConfig
    from recon4d.records import Clip

MIN_PANORAMAS = 2
"""Smallest number of panoramas that --num-frames auto takes, if there are so many: one has no parallax."""


def read_clip_with_priors(
    path: Path | tuple[Path, ...], options: ReconstructOptions, progress: StageProgress, camera_report: list[str]
) -> "Clip":
    """Read a clip and its priors.

    Args:
        path: A video, a picture or a folder of pictures, or several pictures.
        options: The options of the command.
        progress: The line to print to.
        camera_report: Receives lines about what was read of cameras.

    Returns:
        The clip. Panoramas are split into views.

    Raises:
        UserError: If the clip or a prior is unsuitable.
    """
    from recon4d.inference import with_prior_files

    config = options.capture.panorama_config
    clip = _read(path, options, config, camera_report)
    progress.print(describe_clip(describe_input(path), clip, options.fps))
    clip = with_prior_files(clip, options.prior_files, camera_report.append)
    if config is not None:
        clip = _split(clip, config, camera_report)
    for line in camera_report:
        progress.print(line)
    if clip.priors is not None:
        progress.print(describe_priors(clip.priors))
    return clip


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
