"""Main metrics of a report, number formatting, and lines about failures and coverage."""

import math
from collections.abc import Sequence

from recon4d.eval.metrics.score import Metric, Section
from recon4d.eval.predictions import Status
from recon4d.eval.report.summary import Summary, index_summaries
from recon4d.eval.scoring import METRICS, SCORE_FUNCTIONS, ClipResult

HEADLINE: tuple[str, ...] = tuple(name for name, metric in METRICS.items() if metric.is_headline)
"""Metrics of the first table of a report and of the table in the terminal."""

TRACK_HEADLINE: tuple[str, ...] = tuple(name for name, metric in METRICS.items() if metric.is_track_headline)
"""Metrics of the table of tracks: APD3D and EPE after one median scale and after Sim(3), of the project and of the
WorldTrack protocol. The table is shown if the ground truth has tracks."""

SECTIONS: dict[Section, str] = {
    "Cameras": "Position and orientation of the camera.",
    "Depth": "Depth of every pixel.",
    "Points": "Position of every pixel in the world.",
    "Tracks": "Positions of the anchor frames' points at other times.",
    "Dynamic mask": "Pixels of objects that move in the world.",
    "Confidence": "Agreement of expected and measured error of calibrated networks.",
    "Published protocols": "Metrics of other papers, computed as published, including known flaws, so that numbers can "
    "be compared.",
    "Cost": "Computing time.",
}
"""Title and description of each section of metrics."""

INCOMPLETE_STATUSES: tuple[Status, ...] = ("partial", "failed", "timed out")
"""Every status except `ok`."""

_COMPLETE = 0.9995
"""Coverage from which on a metric counts as measured on everything: it would be written as 100.0 %."""


def section_metrics(section: Section) -> tuple[Metric, ...]:
    """List the metrics of a section.

    Args:
        section: Title of the section.

    Returns:
        Its metrics, in the order of reports.
    """
    return tuple(metric for function in SCORE_FUNCTIONS if function.section == section for metric in function.metrics)


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
    found = index_summaries(summaries)
    for method in dict.fromkeys(summary.method for summary in summaries):
        for name in dict.fromkeys((*HEADLINE, *TRACK_HEADLINE)):
            if (method, name) in found and (coverage := describe_coverage(found[method, name])):
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
    share, noun = summary.count / summary.total if summary.total else 1.0, summary.metric.skips
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


def _clips(count: int) -> str:
    return f"{count} clip{'' if count == 1 else 's'}"


def _join_words(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
