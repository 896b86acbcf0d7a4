"""Files of a report: report.json, report.csv, clips.csv and report.html; and the table for the terminal."""

import csv
import io
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from recon4d import __version__
from recon4d.errors import os_errors_as_user_errors
from recon4d.eval.report.headline import (
    HEADLINE,
    TRACK_HEADLINE,
    coverage_lines,
    find_summary,
    format_number,
    method_names,
    status_lines,
)
from recon4d.eval.report.page import RunInfo, render_page
from recon4d.eval.report.summary import Summary, summarize
from recon4d.eval.runner import Evaluation
from recon4d.eval.scoring import METRICS, SECONDS, ClipResult
from recon4d.io import atomic_file


def write_report(out: Path, evaluation: Evaluation, settings: tuple[tuple[str, str], ...]) -> None:
    """Write the four files of a report, each atomically.

    The same evaluation gives the same bytes, except for the time in report.json and report.html.

    Args:
        out: Folder to write to, with the pictures of the page in ``pictures/METHOD/CLIP.jpg``.
        evaluation: Results of all methods and clips.
        settings: Names and values of the settings to list in the report.

    Raises:
        UserError: If a file cannot be written.
    """
    summaries = summarize(evaluation.results)
    run_info = RunInfo(datetime.now(UTC).isoformat(timespec="seconds"), __version__, settings)

    def picture(method: str, clip: str) -> bytes | None:
        path = out / "pictures" / method / f"{clip}.jpg"
        return path.read_bytes() if path.is_file() else None

    with os_errors_as_user_errors():
        out.mkdir(parents=True, exist_ok=True)
    _write(out / "report.json", report_json(evaluation, summaries, run_info))
    _write(out / "report.csv", summary_csv(summaries))
    _write(out / "clips.csv", clips_csv(evaluation.results))
    _write(out / "report.html", render_page(evaluation, summaries, picture, run_info))


def report_json(evaluation: Evaluation, summaries: Sequence[Summary], run_info: RunInfo) -> str:
    """Format all results and summaries as strict JSON.

    Args:
        evaluation: Results of all methods and clips.
        summaries: Summaries of these results.
        run_info: Time, version and settings.

    Returns:
        A JSON object; numbers that are not finite are null.
    """
    methods = method_names(evaluation.results)
    by_method = {method: [s for s in summaries if s.method == method] for method in methods}
    report = {
        "benchmark": evaluation.benchmark.name,
        "split": evaluation.benchmark.split,
        "clips": len(evaluation.benchmark.clips),
        "created": run_info.created,
        "version": run_info.version,
        "settings": dict(run_info.settings),
        "unreadable": list(evaluation.unreadable),
        "methods": {method: {s.metric.name: _finite(s.value) for s in by_method[method]} for method in methods},
        "details": {method: {s.metric.name: _details(s) for s in by_method[method]} for method in methods},
        "results": [_result(result) for result in evaluation.results],
    }
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def summary_csv(summaries: Sequence[Summary]) -> str:
    """Format the summaries as CSV.

    Args:
        summaries: Summaries of all methods and metrics.

    Returns:
        One row for each method and metric; NaN is an empty cell.
    """
    head = ("method", "metric", "value", "low", "high", "unit", "alignment")
    counts = ("clips", "measured", "worst", "count", "total")
    rows = [
        (
            *(s.method, s.metric.name, _cell(s.value), _cell(s.low), _cell(s.high), s.metric.unit, s.alignment),
            *(s.num_clips, s.num_measured, s.num_worst, s.count, s.total),
        )
        for s in summaries
    ]
    return _csv([(*head, *counts), *rows])


def clips_csv(results: Sequence[ClipResult]) -> str:
    """Format the scores of all clips as CSV.

    Args:
        results: Results of all methods and clips.

    Returns:
        One row for each method and clip, with a column for each metric that any clip defines; NaN is an empty cell.
    """
    defined = {score.metric for result in results for score in result.scores}
    metrics = [name for name in METRICS if name in defined and name != SECONDS.name]
    rows = [
        (
            *(result.method, result.clip, result.status, result.reason),
            _score_cell(result, SECONDS.name),
            result.num_frames,
            *(_score_cell(result, name) for name in metrics),
        )
        for result in results
    ]
    return _csv([("method", "clip", "status", "reason", "seconds", "frames", *metrics), *rows])


def headline_table(evaluation: Evaluation) -> str:
    """Format the main metrics of every method as plain text.

    Args:
        evaluation: Results of all methods and clips.

    Returns:
        A table with a row for each method; if the ground truth has tracks, a table of `TRACK_HEADLINE` with a row for
        each metric; and lines about failures, unreadable clips and coverage, if there are any.
    """
    summaries = summarize(evaluation.results)
    methods = method_names(evaluation.results)
    rows = [["", *HEADLINE], ["", *(METRICS[name].unit for name in HEADLINE)]]
    for method in methods:
        found = [find_summary(summaries, method, name) for name in HEADLINE]
        rows.append([method, *("-" if summary is None else format_number(summary.value) for summary in found)])
    notes = [*status_lines(evaluation.results), *_unreadable_line(evaluation), *coverage_lines(summaries)]
    parts = (_aligned(rows, num_names=1), _aligned(_track_rows(summaries, methods), num_names=3), notes)
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _track_rows(summaries: Sequence[Summary], methods: Sequence[str]) -> list[list[str]]:
    """Return the cells of the table of tracks, a row for each metric; no rows if the ground truth has no tracks."""
    rows = []
    for name in TRACK_HEADLINE:
        found = {method: find_summary(summaries, method, name) for method in methods}
        defined = [summary for summary in found.values() if summary is not None]
        if defined:
            # A method without tracks is aligned to nothing.
            aligned = [summary for summary in defined if summary.num_measured] or defined
            alignment = ", ".join(dict.fromkeys(summary.alignment for summary in aligned))
            values = ["-" if summary is None else format_number(summary.value) for summary in found.values()]
            rows.append([name, METRICS[name].unit, alignment, *values])
    return [["tracks", "", "alignment", *methods], *rows] if rows else []


def _aligned(rows: Sequence[Sequence[str]], num_names: int) -> list[str]:
    """Pad the cells of a table to columns; the first `num_names` columns are aligned to the left, others to the right.

    Rows have the same number of cells.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < num_names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _unreadable_line(evaluation: Evaluation) -> list[str]:
    unreadable = list(evaluation.unreadable)
    if not unreadable:
        return []
    more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
    return [f"unreadable: {len(unreadable)} of {len(evaluation.benchmark.clips)} clips: {unreadable[0]}{more}"]


def _details(summary: Summary) -> dict[str, object]:
    return {
        "value": _finite(summary.value),
        "low": _finite(summary.low),
        "high": _finite(summary.high),
        "unit": summary.metric.unit,
        "better": summary.metric.better,
        "alignment": summary.alignment,
        "definition": summary.metric.definition,
        "clips": summary.num_clips,
        "measured": summary.num_measured,
        "worst": summary.num_worst,
        "count": summary.count,
        "total": summary.total,
    }


def _result(result: ClipResult) -> dict[str, object]:
    return {
        "method": result.method,
        "clip": result.clip,
        "status": result.status,
        "reason": result.reason,
        "num_frames": result.num_frames,
        "scores": {score.metric: _finite(score.value) for score in result.scores},
        "notes": {score.metric: score.note for score in result.scores if score.note},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def _score_cell(result: ClipResult, metric: str) -> str:
    score = result.score(metric)
    return "" if score is None else _cell(score.value)


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    with os_errors_as_user_errors(), atomic_file(path) as partial:
        # Names that are not valid Unicode contain lone surrogates, which UTF-8 cannot encode.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
