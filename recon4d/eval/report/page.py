"""The HTML report: a self-contained page with tables, figures and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from recon4d.eval.metrics.score import Metric
from recon4d.eval.report.clips import render_clip_sections
from recon4d.eval.report.figures import (
    FIGURE_STYLE,
    cumulative_figure,
    interval_figure,
    method_swatch,
    seconds_figure,
)
from recon4d.eval.report.headline import (
    GROUPS,
    HEADLINE,
    INCOMPLETE_STATUSES,
    TRACK_HEADLINE,
    best_value,
    coverage_lines,
    describe_coverage,
    find_summary,
    format_number,
    method_names,
)
from recon4d.eval.report.summary import Summary
from recon4d.eval.runner import Evaluation
from recon4d.eval.scoring import METRICS, ClipResult

CURVES = ("rotation_error", "translation_error", "abs_rel", "epe", "auc_30")
"""Metrics whose cumulative distribution over clips is drawn."""

_ARROWS = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better"), "neither": ("", "neither is better")}


@dataclass(frozen=True)
class RunInfo:
    """Origin of a report."""

    created: str
    """Time in UTC, in ISO 8601 format."""
    version: str
    """Version of recon4d."""
    settings: tuple[tuple[str, str], ...]
    """Names and values of the settings of the evaluation."""


def render_page(
    evaluation: Evaluation,
    summaries: Sequence[Summary],
    picture: Callable[[str, str], bytes | None],
    run_info: RunInfo,
) -> str:
    """Render the page, which loads no other files. All names, reasons and settings are escaped.

    Args:
        evaluation: Results of all methods and clips.
        summaries: Summaries of these results.
        picture: Returns the JPEG of a method and a clip; None if there is none.
        run_info: Time, version and settings.

    Returns:
        A complete HTML document.
    """
    results = evaluation.results
    name = evaluation.benchmark.name + (f", split {evaluation.benchmark.split}" if evaluation.benchmark.split else "")
    body = [
        _header(name, evaluation, run_info),
        _headline_section(summaries, method_names(results)),
        _failure_section(evaluation),
        _figure_section(summaries, results),
        _metric_section(summaries, method_names(results)),
        render_clip_sections(evaluation.benchmark.clips, results, picture),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>recon4d on {escape(name)}</title>\n<style>{_STYLE}{FIGURE_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(name: str, evaluation: Evaluation, run_info: RunInfo) -> str:
    methods = method_names(evaluation.results)
    facts = [
        f"{len(evaluation.benchmark.clips)} clips",
        f"{len(methods)} {'method' if len(methods) == 1 else 'methods'}: {', '.join(methods)}",
        f"recon4d {run_info.version}",
        run_info.created.replace("T", " ").replace("+00:00", " UTC"),
    ]
    settings = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in run_info.settings)
    table = f"<details><summary>Settings</summary><table>{settings}</table></details>" if settings else ""
    return (
        f'<header><h1>{escape(name)}</h1><p class="facts">{escape(" · ".join(facts))}</p>{table}'
        "<p>Every method predicts cameras, depth and tracks of the same clips; this page compares the predictions with "
        "the ground truth.</p>"
        "<details><summary>How to read this page</summary>"
        "<p><b>Alignment.</b> Images alone determine neither the origin nor the scale of a scene. Before a prediction "
        "is measured, it is therefore scaled, and for some metrics also rotated and translated, to fit the truth as "
        "well as possible: once for a clip, never for single frames. The column “alignment” says how: <i>none</i> "
        "leaves the prediction as it is, <i>median scale</i> changes only the unit of length, and <i>sim3</i> rotates, "
        "translates and scales the whole scene.</p>"
        "<p><b>Failures count.</b> A method without a prediction for a clip gets the worst value: a share of 0, an "
        "angle of 180 degrees. Distances have no worst value: the clip is missing from their mean, and the number of "
        "clips is written below the mean. Compare such means with care: a method that fails on hard clips looks better "
        "than it is.</p>"
        "<p><b>Intervals.</b> The small numbers below a value are its 95 % confidence interval (bootstrap over clips). "
        "If the intervals of two methods overlap widely, there are too few clips to rank them.</p></details></header>"
    )


def _headline_section(summaries: Sequence[Summary], methods: Sequence[str]) -> str:
    shown = [METRICS[name] for name in HEADLINE if any(s.metric.name == name for s in summaries)]
    if not shown:
        return "<section><h2>Summary</h2><p>Nothing could be measured.</p></section>"
    heads = "".join(f"<th>{_metric_head(metric)}</th>" for metric in shown)
    rows = []
    for place, method in enumerate(methods):
        cells = "".join(f"<td>{_value(summaries, method, metric)}</td>" for metric in shown)
        rows.append(f'<tr><th scope="row">{method_swatch(place)} {escape(method)}</th>{cells}</tr>')
    left_out = "".join(f"<li>{escape(line)}</li>" for line in coverage_lines(summaries))
    caution = f'<p>Not everything was measured:</p><ul class="small">{left_out}</ul>' if left_out else ""
    return (
        "<section><h2>Summary</h2><p>Main metrics over all clips; the best value of each column is bold. Arrows show "
        'whether higher ↑ or lower ↓ is better. Each metric is defined <a href="#metrics">below</a>.</p>'
        f'<div class="wide"><table class="numbers"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{_track_table(summaries, methods)}{caution}</section>"
    )


def _track_table(summaries: Sequence[Summary], methods: Sequence[str]) -> str:
    """Render APD3D and EPE after each alignment; empty if the ground truth has no tracks."""
    table = _metric_table(summaries, methods, [METRICS[name] for name in TRACK_HEADLINE])
    if not table:
        return ""
    return (
        "<h3>Tracks</h3><p>APD3D (share of points near the truth) and EPE (mean distance) after one median scale and "
        f"after Sim(3).</p>{table}"
    )


def _metric_head(metric: Metric) -> str:
    arrow, meaning = _ARROWS[metric.better]
    return (
        f'<span title="{escape(metric.definition)}">{escape(metric.name)}</span>'
        f'<small>{escape(metric.unit)} <span title="{meaning}">{arrow}</span></small>'
    )


def _value(summaries: Sequence[Summary], method: str, metric: Metric) -> str:
    """Render a value, in bold if it is the best, with its interval and coverage."""
    summary = find_summary(summaries, method, metric.name)
    if summary is None:
        return "-"
    is_best = summary.value == best_value([s for s in summaries if s.metric.name == metric.name])
    value = f"<b>{format_number(summary.value)}</b>" if is_best else format_number(summary.value)
    has_value = format_number(summary.value) != "-"
    notes = [f"{format_number(summary.low)} to {format_number(summary.high)}"] if has_value else []
    if coverage := describe_coverage(summary):
        notes += coverage.split(", ")
    return value + "".join(f"<small>{escape(note)}</small>" for note in notes)


def _failure_section(evaluation: Evaluation) -> str:
    results = evaluation.results
    statuses = ("ok", *INCOMPLETE_STATUSES)
    rows = []
    for method in method_names(results):
        found = [result.status for result in results if result.method == method]
        counts = "".join(f"<td>{found.count(status) or '-'}</td>" for status in statuses)
        rows.append(f'<tr><th scope="row">{escape(method)}</th>{counts}</tr>')
    heads = "".join(f"<th>{escape(status)}</th>" for status in statuses)
    incomplete = [result for result in results if result.status != "ok"]
    listed = "".join(
        f"<li><b>{escape(r.method)}</b> on <b>{escape(r.clip)}</b>, {escape(r.status)}: {escape(r.reason)}</li>"
        for r in incomplete
    )
    details = (
        f"<details{' open' if len(incomplete) <= 8 else ''}><summary>Clips and reasons ({len(incomplete)})</summary>"
        f'<ul class="small">{listed}</ul></details>'
        if incomplete
        else ""
    )
    unreadable = "".join(f"<li>{escape(line)}</li>" for line in evaluation.unreadable)
    unreadable_note = (
        f'<p class="alarm">{len(evaluation.unreadable)} of {len(evaluation.benchmark.clips)} clips have no readable '
        f'truth. They are not part of any metric on this page:</p><ul class="small">{unreadable}</ul>'
        if unreadable
        else ""
    )
    return (
        "<section><h2>Failures</h2><p>Number of clips by outcome. <i>Partial</i>: some frames are not registered. "
        "<i>Failed</i> and <i>timed out</i>: there is no prediction, and the clip gets the worst value.</p>"
        f'<div class="wide"><table class="numbers"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{details}{unreadable_note}</section>"
    )


def _figure_section(summaries: Sequence[Summary], results: Sequence[ClipResult]) -> str:
    methods = method_names(results)
    dots = [interval_figure([s for s in summaries if s.metric.name == name], methods) for name in HEADLINE]
    curves = [*(cumulative_figure(name, results) for name in CURVES), seconds_figure(results)]
    legend = "".join(f"<span>{method_swatch(place)} {escape(method)}</span>" for place, method in enumerate(methods))
    return (
        f'<section><h2>Figures</h2><p class="legend">{legend}</p>'
        "<h3>Main metrics</h3><p>Dots are values over all clips, bars their intervals.</p>"
        f'<div class="figures">{_figures(dots)}</div>'
        "<h3>Distributions over clips</h3><p>Fraction of clips that are at least as good as a value: a curve that "
        "rises earlier is better; for auc_30, one that falls later. A curve that does not reach 1 belongs to a method "
        "without a value on some clips.</p>"
        f'<div class="figures">{_figures(curves)}</div></section>'
    )


def _figures(drawn: Sequence[str]) -> str:
    return "".join(f"<figure>{figure}</figure>" for figure in drawn if figure)


def _metric_section(summaries: Sequence[Summary], methods: Sequence[str]) -> str:
    parts = []
    for title, about, metrics in GROUPS:
        if table := _metric_table(summaries, methods, metrics):
            parts.append(f"<h3>{escape(title)}</h3><p>{escape(about)}</p>{table}")
    return (
        '<section id="metrics"><h2>Every metric</h2><p>Open a metric for its definition. Below a value are its '
        "interval, its coverage if it is not complete, and the number of clips without a prediction in it.</p>"
        f"{''.join(parts)}</section>"
    )


def _metric_table(summaries: Sequence[Summary], methods: Sequence[str], metrics: Sequence[Metric]) -> str:
    """Render a table with a row for each metric that is defined; empty if none is."""
    rows = [
        _metric_row(summaries, methods, metric)
        for metric in metrics
        if any(s.metric.name == metric.name for s in summaries)
    ]
    if not rows:
        return ""
    heads = "".join(f"<th>{escape(method)}</th>" for method in methods)
    return (
        '<div class="wide"><table class="numbers"><thead><tr><th>metric</th>'
        f"<th>unit</th><th>alignment</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _metric_row(summaries: Sequence[Summary], methods: Sequence[str], metric: Metric) -> str:
    found = [s for s in summaries if s.metric.name == metric.name]
    arrow, meaning = _ARROWS[metric.better]
    cells = []
    for method in methods:
        summary = find_summary(found, method, metric.name)
        worst = (
            f"<small>{summary.num_worst} with the worst value</small>"
            if summary is not None and summary.num_worst
            else ""
        )
        cells.append(f"<td>{_value(found, method, metric)}{worst}</td>")
    alignment = ", ".join(dict.fromkeys(s.alignment for s in found))
    return (
        f'<tr><th scope="row"><details><summary>{escape(metric.name)} <span title="{meaning}">{arrow}</span></summary>'
        f"<p>{escape(metric.definition)}</p></details></th><td>{escape(metric.unit)}</td>"
        f"<td>{escape(alignment)}</td>{''.join(cells)}</tr>"
    )


_STYLE = """
:root { --paper: #ffffff; --ink: #1d232b; --quiet: #66707c; --line: #e3e7ec; --tint: #f6f8fa; --accent: #2f6db5;
  --alarm: #a33020; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e3e7ec; --quiet: #97a1ad; --line: #2b323b;
  --tint: #1b2027; --accent: #7fb0ec; --alarm: #f0927f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 2rem; font-weight: 650; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; font-weight: 620; margin: 3.5rem 0 0.4rem; }
h3 { font-size: 1.05rem; font-weight: 620; margin: 2rem 0 0.2rem; }
p { max-width: 46rem; margin: 0.4rem 0 0.9rem; }
a { color: var(--accent); }
.facts, .small, small { color: var(--quiet); }
.facts { margin: 0.3rem 0 0.8rem; overflow-wrap: anywhere; }
.small { font-size: 0.9rem; overflow-wrap: anywhere; }
.alarm { color: var(--alarm); }
ul { padding-left: 1.2rem; }
summary { cursor: pointer; }
.wide { overflow-x: auto; margin: 0.6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.5rem 0.8rem 0.5rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
.numbers thead th { font-weight: 600; white-space: nowrap; }
.numbers tbody th { font-weight: 500; white-space: nowrap; position: sticky; left: 0; background: var(--paper); }
.numbers tbody th p { white-space: normal; font-weight: 400; max-width: 22rem; color: var(--quiet); margin: 0.3rem 0; }
.numbers small { display: block; font-size: 0.76rem; font-weight: 400; white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: 1.5rem 2rem; }
figure { margin: 0.5rem 0; }
.legend span { display: inline-block; margin-right: 1.4rem; }
.swatch { vertical-align: middle; }
.clip { border-bottom: 1px solid var(--line); padding: 0.7rem 0; }
.clip > summary { font-weight: 550; overflow-wrap: anywhere; }
.clip > summary small { font-weight: 400; margin-left: 0.6rem; }
.clip img { display: block; width: 100%; max-width: 900px; height: auto; border-radius: 6px; margin: 0.4rem 0 1.2rem; }
.clip h4 { font-size: 0.95rem; margin: 1.2rem 0 0.2rem; }
"""
