"""Tables for the terminal: main metrics, tracks, and on request every metric."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recon4d.eval.report.headline import (
    HEADLINE,
    SECTIONS,
    TRACK_HEADLINE,
    coverage_lines,
    format_number,
    method_names,
    section_metrics,
    status_lines,
)
from recon4d.eval.report.summary import Summary, index_summaries, summarize
from recon4d.eval.runner import Evaluation
from recon4d.eval.scoring import METRICS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FULL_WIDTH = 100_000
"""Width of files and pipes, in characters: no table is wider."""


def headline_table(evaluation: Evaluation, all_metrics: bool = False) -> str:
    """Format the main metrics of every method as plain text.

    Args:
        evaluation: Results of all methods and clips.
        all_metrics: Whether all other metrics follow.

    Returns:
        A table with a row for each method; if the ground truth has tracks, a table of `TRACK_HEADLINE` with a row for
        each metric; and lines about failures, unreadable clips and coverage, if there are any.
    """
    text = io.StringIO()
    print_tables(evaluation, all_metrics, text)
    return text.getvalue().rstrip("\n")


def print_tables(evaluation: Evaluation, all_metrics: bool = False, file: io.StringIO | None = None) -> None:
    """Print the tables of `headline_table`.

    Files and pipes get tables of full width. In a terminal that is too narrow for the first table, it has a row for
    each metric.

    Args:
        evaluation: Results of all methods and clips.
        all_metrics: Whether all other metrics follow.
        file: Text to print to; None for the standard output.
    """
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(file=file, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = FULL_WIDTH
    summaries, methods = summarize(evaluation.results), method_names(evaluation.results)
    main = _main_table(summaries, methods)
    if Measurement.get(console, console.options.update(width=FULL_WIDTH), main).maximum > console.width:
        main = _metric_table("", summaries, methods, HEADLINE)
    tables = [main, _metric_table("tracks", summaries, methods, TRACK_HEADLINE)]
    if all_metrics:
        for section in SECTIONS:
            names = [metric.name for metric in section_metrics(section)]
            tables.append(_metric_table(section.lower(), summaries, methods, names))
    notes = [*status_lines(evaluation.results), *_unreadable_line(evaluation), *coverage_lines(summaries)]
    for place, table in enumerate(table for table in tables if table.row_count):
        _print(console, table, place > 0)
    for place, note in enumerate(notes):
        _print(console, note, place == 0)


def _print(console: "Console", what: "Table | str", after_blank_line: bool) -> None:
    if after_blank_line:
        console.print()
    console.print(what, soft_wrap=isinstance(what, str))


def _main_table(summaries: Sequence[Summary], methods: Sequence[str]) -> "Table":
    """Return the main metrics with a row for each method."""
    table = _table(["", *HEADLINE], num_names=1)
    table.add_row("", *(METRICS[name].unit for name in HEADLINE), style="dim")
    found = index_summaries(summaries)
    for method in methods:
        table.add_row(method, *(_number(found.get((method, name))) for name in HEADLINE))
    return table


def _metric_table(title: str, summaries: Sequence[Summary], methods: Sequence[str], names: Sequence[str]) -> "Table":
    """Return a row for each metric that the ground truth defines."""
    table = _table([title, "", "alignment", *methods], num_names=3)
    for name in names:
        found = {summary.method: summary for summary in summaries if summary.metric.name == name}
        if found:
            # A method without a prediction is aligned to nothing.
            aligned = [summary for summary in found.values() if summary.num_measured] or found.values()
            alignment = ", ".join(dict.fromkeys(summary.alignment for summary in aligned))
            table.add_row(name, METRICS[name].unit, alignment, *(_number(found.get(method)) for method in methods))
    return table


def _table(heads: Sequence[str], num_names: int) -> "Table":
    """Return an empty table; the first `num_names` columns are aligned to the left, the others to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < num_names else "right", overflow="fold")
    return table


def _number(summary: Summary | None) -> str:
    return "-" if summary is None else format_number(summary.value)


def _unreadable_line(evaluation: Evaluation) -> list[str]:
    unreadable = list(evaluation.unreadable)
    if not unreadable:
        return []
    more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
    return [f"unreadable: {len(unreadable)} of {len(evaluation.benchmark.clips)} clips: {unreadable[0]}{more}"]
