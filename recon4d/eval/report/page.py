"""The HTML report: a self-contained page with tables, figures and pictures, from `templates/report.html.j2`."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recon4d.eval.report.clips import select_pictured_clips, worst_first
from recon4d.eval.report.figures import cumulative_figure, interval_figure, method_swatch, seconds_figure
from recon4d.eval.report.headline import (
    HEADLINE,
    INCOMPLETE_STATUSES,
    SECTIONS,
    TRACK_HEADLINE,
    best_value,
    coverage_lines,
    describe_coverage,
    format_number,
    method_names,
    section_metrics,
)
from recon4d.eval.report.summary import Summary, index_summaries
from recon4d.eval.runner import Evaluation
from recon4d.eval.scoring import METRICS

CURVES = ("rotation_error", "translation_error", "abs_rel", "epe", "auc_30")
"""Metrics whose cumulative distribution over clips is drawn."""


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
    evaluation: Evaluation, summaries: Sequence[Summary], picture: Callable[[str, str], bytes | None], run_info: RunInfo
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
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    results, methods = evaluation.results, method_names(evaluation.results)
    by_metric = {name: [s for s in summaries if s.metric.name == name] for name in METRICS}
    defined = [METRICS[name] for name, found in by_metric.items() if found]
    by_clip = {clip: [result for result in results if result.clip == clip] for clip in evaluation.benchmark.clips}
    clips = [clip for clip, found in by_clip.items() if found]
    worst = worst_first(clips, results) if clips else []
    environment = Environment(
        loader=PackageLoader("recon4d.eval.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(number=format_number, base64=lambda data: base64.b64encode(data).decode())
    return environment.get_template("report.html.j2").render(
        style=Markup((Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")),
        evaluation=evaluation,
        run=run_info,
        methods=methods,
        statuses=("ok", *INCOMPLETE_STATUSES),
        swatches={method: Markup(method_swatch(place)) for place, method in enumerate(methods)},
        summaries=index_summaries(summaries),
        by_metric=by_metric,
        best={name: best_value(found) for name, found in by_metric.items() if found},
        coverage=describe_coverage,
        coverage_lines=coverage_lines(summaries),
        headline=[metric for metric in defined if metric.name in HEADLINE],
        track_headline=[metric for metric in defined if metric.name in TRACK_HEADLINE],
        sections=[
            (title, about, [metric for metric in section_metrics(title) if metric in defined])
            for title, about in SECTIONS.items()
        ],
        dots=[Markup(interval_figure(by_metric[name], methods)) for name in HEADLINE],
        curves=[
            Markup(figure) for figure in (*(cumulative_figure(c, results) for c in CURVES), seconds_figure(results))
        ],
        clips=clips,
        worst=worst,
        results=by_clip,
        pictured=select_pictured_clips(clips, worst, len(methods)) if clips else (),
        picture=picture,
    )
