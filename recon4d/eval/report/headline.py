"""What a report says first: the main metrics, how numbers are written, what failed, and what was left out."""

import math
from collections.abc import Sequence

from recon4d.eval.metrics.calibration import CALIBRATION_METRICS
from recon4d.eval.metrics.cameras import CAMERA_METRICS
from recon4d.eval.metrics.depth import DEPTH_METRICS
from recon4d.eval.metrics.dynamic_mask import MOVING_METRICS
from recon4d.eval.metrics.pixel_tracks import PIXEL_TRACK_METRICS
from recon4d.eval.metrics.points import POINT_METRICS
from recon4d.eval.metrics.score import Metric
from recon4d.eval.metrics.tracks import TRACK_METRICS
from recon4d.eval.metrics.trajectory import TRAJECTORY_METRICS
from recon4d.eval.predictions import Status
from recon4d.eval.protocols.multiview_points import MULTIVIEW_POINT_METRICS
from recon4d.eval.protocols.tapvid3d import TAPVID3D_METRICS
from recon4d.eval.protocols.video_depth import VIDEO_DEPTH_METRICS
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
"""The metrics of the first table."""

GROUPS: tuple[tuple[str, str, tuple[Metric, ...]], ...] = (
    ("Cameras", "Where the camera was and where it looked.", (*CAMERA_METRICS, *TRAJECTORY_METRICS)),
    ("Depth", "How far every pixel is from the camera.", DEPTH_METRICS),
    ("Points", "Where every pixel is in the world.", POINT_METRICS),
    ("Tracks", "Where points of the anchor frames are at every other time.", (*TRACK_METRICS, *PIXEL_TRACK_METRICS)),
    ("Moving", "Which pixels belong to something that moves by itself.", MOVING_METRICS),
    ("Confidence", "Whether a calibrated network knows how wrong it is.", CALIBRATION_METRICS),
    (
        "Published protocols",
        "The numbers of other papers, measured their way; their flaws are kept, so that the numbers can be compared.",
        (*VIDEO_DEPTH_METRICS, *MULTIVIEW_POINT_METRICS, *WORLDTRACK_METRICS, *TAPVID3D_METRICS),
    ),
    ("Cost", "What it takes.", (SECONDS,)),
)
"""Title, what it is about, and metrics: every metric is in one group."""

TROUBLES: tuple[Status, ...] = ("partial", "failed", "timed out")
"""What may become of a clip beside ok."""

# Of metrics whose worst value stands for every point that is missing nothing is left out.
_NOUNS = (
    ("frames", TRAJECTORY_METRICS),
    ("pixels", (*DEPTH_METRICS, *POINT_METRICS)),
    ("points", tuple(metric for metric in TRACK_METRICS if metric.worst is None)),
)
_WHOLE = 0.9995
"""A share from here on is written as all of it."""


def number(value: float) -> str:
    """A number for people: about three digits that count, '-' for NaN."""
    if math.isnan(value):
        return "-"
    size = abs(value)
    if not math.isfinite(value):
        return f"{value:g}"
    if size >= 99_999.5 or 0 < size < 0.001:
        return f"{value:.1e}"
    return f"{value:.{3 if size < 9.9995 else 2 if size < 99.995 else 1 if size < 999.95 else 0}f}"


def method_names(results: Sequence[ClipResult]) -> tuple[str, ...]:
    """The methods in the order they come in."""
    return tuple(dict.fromkeys(result.method for result in results))


def find_summary(summaries: Sequence[Summary], method: str, metric: str) -> Summary | None:
    """The summary of a metric for a method; None where no truth tells it."""
    return next((s for s in summaries if s.method == method and s.metric.name == metric), None)


def best_value(summaries: Sequence[Summary]) -> float:
    """The best of the values of one metric; NaN where fewer than two are defined or none is better than another."""
    values = [summary.value for summary in summaries if not math.isnan(summary.value)]
    if len(values) < 2 or summaries[0].metric.better == "neither":
        return math.nan
    return max(values) if summaries[0].metric.better == "higher" else min(values)


def trouble_lines(results: Sequence[ClipResult]) -> tuple[str, ...]:
    """One line for each method that did not answer every clip whole: "colmap: 5 partial, 7 failed of 64 clips"."""
    lines = []
    for method in method_names(results):
        statuses = [result.status for result in results if result.method == method]
        counts = [(statuses.count(trouble), trouble) for trouble in TROUBLES]
        told = ", ".join(f"{count} {trouble}" for count, trouble in counts if count)
        if told:
            lines.append(f"{method}: {told} of {_clips(len(statuses))}")
    return tuple(lines)


def left_out_lines(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """What main metrics leave out: "abs_rel of colmap is over 57 of 64 clips, 2.1 % of the pixels".

    Metrics of a method that leave out the same share a line. Clips without a prediction that count as the worst value
    are not left out.
    """
    by_method: dict[tuple[str, str], list[str]] = {}
    for method in dict.fromkeys(summary.method for summary in summaries):
        for name in HEADLINE:
            summary = find_summary(summaries, method, name)
            if summary is not None and (coverage := coverage_words(summary)):
                by_method.setdefault((method, coverage), []).append(name)
    return tuple(
        f"{_joined(names)} of {method} {'is' if len(names) == 1 else 'are'} over {coverage}"
        for (method, coverage), names in by_method.items()
    )


def coverage_words(summary: Summary) -> str:
    """What a value is over where that is not everything, in words: "57 of 64 clips, 2.1 % of the pixels"; else ""."""
    share, noun = summary.count / summary.total if summary.total else 1.0, _noun(summary.metric.name)
    is_partly = bool(noun) and share < _WHOLE
    if summary.num_measured == summary.num_clips and not is_partly:
        return ""
    words = [f"{summary.num_measured} of {_clips(summary.num_clips)}"]
    if 0 < summary.num_measured == summary.num_worst:
        words.append("all of them without an answer")
    if is_partly and summary.num_measured:
        words.append(f"{_percent(share)} % of the {noun}")
    return ", ".join(words)


def _percent(share: float) -> str:
    """Never 0.0 of something that is there."""
    return f"{100 * share:.1f}" if share >= 0.0005 else f"{100 * share:.1g}"


def _noun(metric: str) -> str:
    return next((noun for noun, metrics in _NOUNS if metric in {m.name for m in metrics}), "")


def _clips(count: int) -> str:
    return f"{count} clip{'' if count == 1 else 's'}"


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
