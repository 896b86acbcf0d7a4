"""Files of a report: report.json, report.csv, clips.csv and report.html."""

import csv
import io
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from recon4d import __version__
from recon4d.errors import os_errors_as_user_errors
from recon4d.eval.report.headline import method_names
from recon4d.eval.report.page import RunInfo, render_page
from recon4d.eval.report.summary import Summary, summarize
from recon4d.eval.runner import Evaluation
from recon4d.eval.scoring import METRICS, ClipResult
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
    metrics = [name for name in METRICS if name in defined and name != "seconds"]
    rows = [
        (
            *(result.method, result.clip, result.status, result.reason),
            _score_cell(result, "seconds"),
            result.num_frames,
            *(_score_cell(result, name) for name in metrics),
        )
        for result in results
    ]
    return _csv([("method", "clip", "status", "reason", "seconds", "frames", *metrics), *rows])


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
