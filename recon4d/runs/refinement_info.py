"""What is told about the refinement of a scene: its details, and the problems that they indicate."""

import statistics
from typing import TYPE_CHECKING

from recon4d.runs.formatting import percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from recon4d.records import RefinementSummary

MIN_INLIER_FRACTION = 0.75
"""Smallest fraction of the corners that refined cameras explain without a warning. Hand-tuned."""
MIN_PARALLAX = 1.0
"""Smallest median triangulation angle without a warning, in degrees. Hand-tuned."""


def describe_refinement(summary: "RefinementSummary | None", distortion: "Float[Tensor, '5'] | None") -> list[str]:
    """Describe what was refined and how well it fits the images.

    Args:
        summary: Summary of the refinement; None if none was tried.
        distortion: Lens distortion that was removed, as `Scene.distortion`; None if none was removed.

    Returns:
        A line on the refinement, then one indented line for each detail that was measured.
    """
    if summary is None:
        lines = ["refinement: none"]
    elif summary.is_accepted:
        subject = "cameras" if summary.depth_error_after is None else "cameras and depth"
        subject = "depth, with the given cameras," if summary.is_depth_only else subject
        lines = [f"refinement: {subject} fitted to {summary.num_tracks} corners", *_describe_measurements(summary)]
    else:
        lines = [f"refinement: not refined: {summary.reason}", *_describe_measurements(summary)]
    if distortion is not None:
        names = ("k1", "k2", "p1", "p2", "k3")
        values = ", ".join(f"{name} {value:.4f}" for name, value in zip(names, distortion.tolist(), strict=True))
        lines.append(f"lens distortion: {values}, removed from the pictures")
    return lines


def find_refinement_problems(summary: "RefinementSummary | None") -> list[str]:
    """Find problems that a refinement indicates.

    Args:
        summary: Summary of the refinement; None if none was tried.

    Returns:
        One line for each problem, which names the affected quantity and the measured value.
    """
    if summary is None:
        return []
    if not summary.is_accepted:
        return [f"cameras and depth: not refined: {summary.reason}"]
    problems = []
    if summary.inlier_fraction is not None and summary.inlier_fraction < MIN_INLIER_FRACTION:
        problems.append(f"cameras: refinement explains only {percent(summary.inlier_fraction)} of the corners")
    if summary.is_rotation_only:
        problems.append("depth and camera path: the camera does not translate, which determines no depth")
    elif summary.parallax is not None and summary.parallax < MIN_PARALLAX:
        problems.append(f"depth: parallax of only {summary.parallax:.1f} degrees")
    if summary.unknown_frames:
        problems.append(f"cameras and depth: the cameras of {_frames(summary.unknown_frames)} are unknown")
    if summary.dynamic_reason:
        problems.append(f"what moves: as predicted: {summary.dynamic_reason}")
    return problems


def describe_windows(summaries: "Sequence[RefinementSummary | None]") -> list[str]:
    """Describe how the windows of a long clip were refined.

    Args:
        summaries: Summary of each window; None for windows whose refinement was not tried. Empty if none was.

    Returns:
        A line on all windows, then one indented line for each window that was not refined completely.
    """
    if not summaries:
        return []
    refined = [summary for summary in summaries if summary is not None and summary.is_accepted]
    lines = [f"refinement: {len(refined)} of {len(summaries)} windows refined{_median_measurements(refined)}"]
    for number, summary in enumerate(summaries):
        if summary is None or not summary.is_accepted:
            lines.append(f"  window {number}: as predicted: {'' if summary is None else summary.reason}")
        elif summary.is_rotation_only:
            lines.append(f"  window {number}: the camera does not translate, which determines no depth")
        elif summary.unknown_frames:
            lines.append(f"  window {number}: the cameras of {_frames(summary.unknown_frames)} are unknown")
    return lines


def find_window_problems(summaries: "Sequence[RefinementSummary | None]") -> list[str]:
    """Find problems that the refinement of the windows of a long clip indicates.

    Args:
        summaries: As for `describe_windows`.

    Returns:
        A line if windows were not refined.
    """
    count = sum(summary is None or not summary.is_accepted for summary in summaries)
    return [f"cameras and depth: {count} of {len(summaries)} windows are not refined"] if count else []


def _median_measurements(summaries: "Sequence[RefinementSummary]") -> str:
    """Describe the medians over windows."""
    inliers = [summary.inlier_fraction for summary in summaries if summary.inlier_fraction is not None]
    parts = [f"they explain {percent(statistics.median(inliers))} of the held-out corners"] if inliers else []
    verified = [summary.verified_fraction for summary in summaries]
    parts += [f"depth verified at {percent(statistics.median(verified))} of the pixels"] if any(verified) else []
    return f" (medians: {', '.join(parts)})" if parts else ""


def _describe_measurements(summary: "RefinementSummary") -> list[str]:
    """Describe every field of a summary that was measured."""
    lines = []
    if summary.static_fraction is not None:
        lines.append(f"  static corners: {percent(summary.static_fraction)} of all")
    if summary.inlier_fraction is not None:
        lines.append(
            f"  held-out corners: {percent(summary.inlier_fraction)} are explained by the cameras"
            + _before(summary.inlier_fraction_before, percent)
        )
    if summary.error_after is not None:
        lines.append(
            f"  reprojection error: {summary.error_after:.2f} pixels of the maps, each clipped to 1"
            + _before(summary.error_before, "{:.2f}".format)
        )
    if summary.is_rotation_only:
        lines.append("  parallax: none, the camera does not translate")
    elif summary.parallax is not None:
        lines.append(f"  parallax: {summary.parallax:.1f} degrees")
    if summary.depth_error_after is not None:
        lines.append(
            f"  depth: differs by {percent(summary.depth_error_after)} from held-out corners"
            + _before(summary.depth_error_before, percent)
        )
    if summary.verified_fraction:
        error = "" if summary.verified_error is None else f", where it differs by {percent(summary.verified_error)}"
        lines.append(f"  verified depth: at {percent(summary.verified_fraction)} of the pixels{error}")
    if summary.unknown_frames:
        lines.append(f"  unknown: the cameras of {_frames(summary.unknown_frames)}")
    return lines


def _before(value: float | None, form: "Callable[[float], str]") -> str:
    return "" if value is None else f" ({form(value)} before)"


def _frames(numbers: tuple[int, ...]) -> str:
    return f"{'frame' if len(numbers) == 1 else 'frames'} {', '.join(map(str, numbers))}"
