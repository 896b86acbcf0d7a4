"""Phrases for people: clips, priors, results and percentages."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recon4d.records import Clip, Priors, Scene


def describe_input(path: "Path | tuple[Path, ...]") -> str:
    """Name a clip that was given on the command line.

    Args:
        path: A path, or several pictures that are one clip.

    Returns:
        The path; for pictures, the first and how many follow.
    """
    return str(path) if isinstance(path, Path) else f"{path[0]} and {len(path) - 1} more"


def describe_clip(source: str, clip: "Clip", fps: float | None) -> str:
    """Describe the frames that were read, in one line.

    Args:
        source: Name of the clip that they were read from.
        clip: The frames.
        fps: The frame rate that was requested; None for evenly spaced frames.

    Returns:
        Number of frames, size and time range; how the frames were chosen, if they are not evenly spaced.
    """
    height, width = clip.size
    if clip.source is not None and clip.source.selection:
        return (
            f"{source}: {clip.source.selection}, of {width} x {height} pixels, from {clip.times.min():.2f} s to "
            f"{clip.times.max():.2f} s"
        )
    count = f"{clip.num_frames} frame{'s' if clip.num_frames > 1 else ''} of {width} x {height} pixels"
    if clip.times.isnan().all():
        return f"{source}: {count}, without times"
    spacing = "evenly spaced" if fps is None else f"at {fps:g} per second"
    return f"{source}: {count}, {spacing} from {clip.times.min():.2f} s to {clip.times.max():.2f} s"


def describe_priors(priors: "Priors") -> str:
    """Describe the priors of a clip, in one line.

    Args:
        priors: The priors.

    Returns:
        Which quantities are given, for how many frames or which percentage of the pixels.
    """
    num_frames = len(priors.intrinsics)
    parts = []
    for name, values in (("intrinsics", priors.intrinsics), ("cameras", priors.world_from_cam)):
        if count := int(values.isfinite().all(dim=(1, 2)).sum()):
            parts.append(f"{name} of {count} of {num_frames} frames")
    if priors.depths is not None:
        parts.append(f"depth at {percent(priors.depths.isfinite().float().mean().item())} of the pixels")
    if priors.ignore is not None:
        parts.append(f"mask that excludes {percent(priors.ignore.float().mean().item())} of the pixels")
    return f"priors: {', '.join(parts) or 'none'}"


def describe_results(out: Path, scene: "Scene") -> str:
    """Describe a folder of results, in one line.

    Args:
        out: The folder.
        scene: The scene in it.

    Returns:
        The files in the folder and the mean horizontal field of view.
    """
    angle = scene.cameras.field_of_view(*scene.size)[:, 0].mean().rad2deg()
    files = ", ".join(sorted(f"{path.name}/" if path.is_dir() else path.name for path in out.iterdir()))
    return f"{out}: {files} (field of view {angle:.0f} degrees)"


def percent(fraction: float) -> str:
    """Format a fraction as a percentage.

    Args:
        fraction: A number from 0 to 1.

    Returns:
        The percentage with two significant digits, such as "2.5 %"; whole numbers from 99.5 % on.
    """
    return f"{100 * fraction:.2g} %" if fraction < 0.995 else f"{100 * fraction:.0f} %"
