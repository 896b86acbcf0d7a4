"""Main metrics of a report, number formatting, and lines about failures and coverage."""

import math
from collections.abc import Sequence

from recon4d.eval.metrics.calibration import CALIBRATION_METRICS
from recon4d.eval.metrics.cameras import CAMERA_METRICS
from recon4d.eval.metrics.depth import DEPTH_METRICS
from recon4d.eval.metrics.dynamic_mask import DYNAMIC_MASK_METRICS
from recon4d.eval.metrics.pixel_tracks import PIXEL_TRACK_METRICS
from recon4d.eval.metrics.points import POINT_METRICS
from recon4d.eval.metrics.score import Metric
from recon4d.eval.metrics.tracks import APD3D, APD3D_SIM3, EPE, EPE_SIM3, TRACK_METRICS
from recon4d.eval.metrics.trajectory import TRAJECTORY_METRICS
from recon4d.eval.predictions import Status
from recon4d.eval.protocols.multiview_points import MULTIVIEW_POINT_METRICS
from recon4d.eval.protocols.tapvid3d import TAPVID3D_METRICS
from recon4d.eval.protocols.video_depth import VIDEO_DEPTH_METRICS
from recon4d.eval.protocols.worldtrack import GLOBAL as WORLDTRACK_GLOBAL
from recon4d.eval.protocols.worldtrack import SIM3 as WORLDTRACK_SIM3
from recon4d.eval.protocols.worldtrack import WORLDTRACK_METRICS
from recon4d.eval.report.summary import Summary
from recon4d.eval.scoring import SECONDS, ClipResult

HEADLINE: tuple[str, ...] = (
    "auc_30",
    "auc_5",
    "registered",
    "ate",
    "abs_rel",
    "delta_1",
    "point_epe",
    "epe",
    "moving_epe",
    "visibility_accuracy",
    "moving_iou",
    "seconds",
)
"""Metrics of the first table of a report and of the table in the terminal."""

TRACK_HEADLINE: tuple[str, ...] = (
    *(metric.name for metric in (APD3D, EPE, APD3D_SIM3, EPE_SIM3)),
    *(metric.name for metric in (*WORLDTRACK_GLOBAL, *WORLDTRACK_SIM3)),
)
"""Metrics of the table of tracks: APD3D and EPE after one median scale and after Sim(3), of the project and of the
WorldTrack protocol. The table is shown if the ground truth has tracks."""

GROUPS: tuple[tuple[str, str, tuple[Metric, ...]], ...] = (
    ("Cameras", "Position and orientation of the camera.", (*CAMERA_METRICS, *TRAJECTORY_METRICS)),
    ("Depth", "Depth of every pixel.", DEPTH_METRICS),
    ("Points", "Position of every pixel in the world.", POINT_METRICS),
    ("Tracks", "Positions of the anchor frames' points at other times.", (*TRACK_METRICS, *PIXEL_TRACK_METRICS)),
    ("Dynamic mask", "Pixels of objects that move in the world.", DYNAMIC_MASK_METRICS),
    ("Confidence", "Agreement of expected and measured error of calibrated networks.", CALIBRATION_METRICS),
    (
        "Published protocols",
        "Metrics of other papers, computed as published, including known flaws, so that numbers can be compared.",
        (*VIDEO_DEPTH_METRICS, *MULTIVIEW_POINT_METRICS, *WORLDTRACK_METRICS, *TAPVID3D_METRICS),
    ),
    ("Cost", "Computing time.", (SECONDS,)),
)
"""Title, description and metrics of each group; every metric is in exactly one group."""

INCOMPLETE_STATUSES: tuple[Status, ...] = ("partial", "failed", "timed out")
"""Every status except `ok`."""

# Unit of `Score.count` for metrics that skip missing items. Metrics that count missing items as worst are not listed.
_NOUNS = (
    ("frames", TRAJECTORY_METRICS),
    ("pixels", (*DEPTH_METRICS, *POINT_METRICS)),
    ("points", tuple(metric for metric in (*TRACK_METRICS, *WORLDTRACK_METRICS) if metric.worst is None)),
)
_COMPLETE = 0.9995
"""Coverage from which on a metric counts as measured on everything: it would be written as 100.0 %."""


def format_number(value: float) -> str:
    """Format a number with about three significant digits.

    Args:
        value: Any number.

    Returns:
        The number as text; "-" for NaN.
    """
    if math.isnan(value):
        return "-"
    size = abs(value)
    if not math.isfinite(value):
        return f"{value:g}"
    if size >= 99_999.5 or 0 < size < 0.001:
        return f"{value:.1e}"
    return f"{value:.{3 if size < 9.9995 else 2 if size < 99.995 else 1 if size < 999.95 else 0}f}"


def method_names(results: Sequence[ClipResult]) -> tuple[str, ...]:
    """List the methods of some results.

    Args:
        results: Results of any number of methods and clips.

    Returns:
        Names of the methods in the order of their first result.
    """
    return tuple(dict.fromkeys(result.method for result in results))


def find_summary(summaries: Sequence[Summary], method: str, metric: str) -> Summary | None:
    """Find the summary of a metric for a method.

    Args:
        summaries: Summaries to search.
        method: Name of the method.
        metric: Name of the metric.

    Returns:
        The summary; None if there is none.
    """
    return next((s for s in summaries if s.method == method and s.metric.name == metric), None)


def best_value(summaries: Sequence[Summary]) -> float:
    """Find the best value of one metric.

    Args:
        summaries: Summaries of the same metric for several methods.

    Returns:
        The best value; NaN if fewer than two methods have a value or the metric has no better direction.
    """
    values = [summary.value for summary in summaries if not math.isnan(summary.value)]
    if len(values) < 2 or summaries[0].metric.better == "neither":
        return math.nan
    return max(values) if summaries[0].metric.better == "higher" else min(values)


def status_lines(results: Sequence[ClipResult]) -> tuple[str, ...]:
    """Describe the clips without a complete prediction.

    Args:
        results: Results of any number of methods and clips.

    Returns:
        One line for each method that has such clips, as "colmap: 5 partial, 7 failed of 64 clips".
    """
    lines = []
    for method in method_names(results):
        statuses = [result.status for result in results if result.method == method]
        counts = [(statuses.count(status), status) for status in INCOMPLETE_STATUSES]
        description = ", ".join(f"{count} {status}" for count, status in counts if count)
        if description:
            lines.append(f"{method}: {description} of {_clips(len(statuses))}")
    return tuple(lines)


def coverage_lines(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """Describe main metrics that are not measured on everything.

    Clips without a prediction that count as the worst value are part of a metric.

    Args:
        summaries: Summaries of any number of methods and metrics.

    Returns:
        Lines such as "abs_rel of colmap is over 57 of 64 clips, 2.1 % of the pixels". Metrics of a method with the
        same coverage share a line.
    """
    by_method: dict[tuple[str, str], list[str]] = {}
    for method in dict.fromkeys(summary.method for summary in summaries):
        for name in dict.fromkeys((*HEADLINE, *TRACK_HEADLINE)):
            summary = find_summary(summaries, method, name)
            if summary is not None and (coverage := describe_coverage(summary)):
                by_method.setdefault((method, coverage), []).append(name)
    return tuple(
        f"{_join_words(names)} of {method} {'is' if len(names) == 1 else 'are'} over {coverage}"
        for (method, coverage), names in by_method.items()
    )


def describe_coverage(summary: Summary) -> str:
    """Describe the coverage of a value in words.

    Args:
        summary: Summary of a metric for a method.

    Returns:
        Text such as "57 of 64 clips, 2.1 % of the pixels"; empty if everything was measured.
    """
    share, noun = summary.count / summary.total if summary.total else 1.0, _noun(summary.metric.name)
    is_partly = bool(noun) and share < _COMPLETE
    if summary.num_measured == summary.num_clips and not is_partly:
        return ""
    parts = [f"{summary.num_measured} of {_clips(summary.num_clips)}"]
    if 0 < summary.num_measured == summary.num_worst:
        parts.append("all of them without a prediction")
    if is_partly and summary.num_measured:
        parts.append(f"{_percent(share)} % of the {noun}")
    return ", ".join(parts)


def _percent(share: float) -> str:
    """Format a fraction as a percentage with one decimal, or one significant digit if that would be 0.0."""
    return f"{100 * share:.1f}" if share >= 0.0005 else f"{100 * share:.1g}"


def _noun(metric: str) -> str:
    return next((noun for noun, metrics in _NOUNS if metric in {m.name for m in metrics}), "")


def _clips(count: int) -> str:
    return f"{count} clip{'' if count == 1 else 's'}"


def _join_words(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
