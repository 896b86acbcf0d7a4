"""Figures of the HTML report as inline SVG: intervals, cumulative distributions over clips, and computing time.

Matplotlib draws them in placeholder colors, which become variables of the style sheet, so that figures follow the light
or dark color scheme of the page.
"""

import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from recon4d.eval.report.headline import format_number, method_names
from recon4d.eval.report.summary import Summary
from recon4d.eval.scoring import METRICS, ClipResult

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

NUM_COLORS = 8
"""Number of different colors; further methods repeat them with dashed lines."""

_WIDTH, _HEIGHT = 3.6, 2.3
"""Size of a figure in inches of 72 SVG units."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.46, 0.12, 0.10, 0.42
"""Margins around the plot area in inches."""
_ROW = 0.26
"""Height of the row of a method in inches."""
_INK = "#000000"
"""Placeholder of the text color of the page."""


def method_swatch(place: int) -> str:
    """Draw a line in the color of a method, for legends and tables.

    Args:
        place: Position of the method in the order of methods.

    Returns:
        An SVG element.
    """
    dashes = f' stroke-dasharray="{_dashes(place)[0]} {_dashes(place)[1]}"' if place >= NUM_COLORS else ""
    line = f'<line x1="0" x2="22" y1="6" y2="6" stroke="var(--c{place % NUM_COLORS})" stroke-width="4"{dashes}/>'
    return f'<svg class="swatch" width="22" height="12" aria-hidden="true">{line}</svg>'


def interval_figure(summaries: Sequence[Summary], methods: Sequence[str]) -> str:
    """Draw the values of one metric with their bootstrap intervals.

    Args:
        summaries: Summaries of the same metric for some of the methods.
        methods: Names of all methods; their order defines the colors.

    Returns:
        An SVG element with a row for each method; empty if no value is finite.
    """
    defined = [(methods.index(s.method), s) for s in summaries if math.isfinite(s.value)]
    if not defined:
        return ""
    metric = summaries[0].metric
    figure, axes = _axes(_TOP + _ROW * len(methods) + _BOTTOM, f"{metric.name} ({metric.unit})", "x")
    tooltips: list[str] = []
    for place, s in defined:
        text = f"{s.method}: {format_number(s.value)} ({format_number(s.low)} to {format_number(s.high)})"
        color = _color(place)
        _add_tooltip(
            axes.plot([s.low, s.high], [place, place], color=color, linewidth=2, alpha=0.45)[0], text, tooltips
        )
        _add_tooltip(axes.plot(s.value, place, "o", color=color, markersize=7)[0], text, tooltips)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_yticks([])
    axes.margins(x=0.08)
    return _svg(figure, f"{metric.name} of every method", tooltips)


def cumulative_figure(metric: str, results: Sequence[ClipResult]) -> str:
    """Draw the cumulative distribution of a metric over clips, with one curve for each method.

    A clip without a value counts as worse than every value, so that a curve may end below 1.

    Args:
        metric: Name of the metric.
        results: Results of all methods and clips.

    Returns:
        An SVG element with the fraction of clips that are at least as good as a value; empty if no value is finite.
    """
    values = {
        method: np.array([s.value for r in results if r.method == method and (s := r.score(metric))], dtype=float)
        for method in method_names(results)
    }
    finite = np.concatenate([of_method[np.isfinite(of_method)] for of_method in values.values()] or [np.zeros(0)])
    if not len(finite):
        return ""
    is_lower = METRICS[metric].better == "lower"
    low, high = _log_range(finite) if is_lower else (min(0.0, finite.min()), max(1.0, finite.max()))
    label = f"share of clips with {metric} {'at most' if is_lower else 'at least'} ({METRICS[metric].unit})"
    figure, axes = _axes(_HEIGHT, label, "both")
    if is_lower:
        _set_log_scale(axes, axes.xaxis, low, high)
    axes.set(xlim=(low, high), ylim=(0, 1))
    tooltips: list[str] = []
    for place, (method, of_method) in enumerate(values.items()):
        if np.isfinite(of_method).any():
            x, y = cumulative_steps(np.clip(of_method, low, high), is_lower, low, high)
            (curve,) = axes.step(x, y, where="post", color=_color(place), linewidth=1.5, clip_on=False)
            curve.set_linestyle((0, _dashes(place)) if place >= NUM_COLORS else "-")
            _add_tooltip(curve, method, tooltips)
    return _svg(figure, f"Share of clips by {metric}", tooltips)


def cumulative_steps(values: np.ndarray, is_lower: bool, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute the steps of a cumulative distribution.

    Args:
        values: Value of each clip, of shape (n,); NaN if it is undefined.
        is_lower: Whether lower values are better.
        low: Lower end of the axis.
        high: Upper end of the axis.

    Returns:
        Values from the best to the worst end, and the fraction of clips that are at least as good as each, both of
        shape (m,). A fraction is valid up to the next value.
    """
    defined = np.sort(values[~np.isnan(values)])[:: 1 if is_lower else -1]
    start, end = (low, high) if is_lower else (high, low)
    fractions = np.arange(len(defined) + 1) / len(values)
    return np.array([start, *defined, end]), np.append(fractions, fractions[-1])


def seconds_figure(results: Sequence[ClipResult]) -> str:
    """Draw the computing time against the number of frames, with one dot for each clip.

    Args:
        results: Results of all methods and clips.

    Returns:
        An SVG element; empty if no time was measured.
    """
    timed = [
        (place, result, score.value)
        for place, method in enumerate(method_names(results))
        for result in results
        if result.method == method and (score := result.score("seconds")) and math.isfinite(score.value)
    ]
    if not timed:
        return ""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes(_HEIGHT, "seconds by number of frames", "both")
    low, high = _log_range(np.array([value for *_, value in timed]))
    _set_log_scale(axes, axes.yaxis, low, high)
    frames = [result.num_frames for _, result, _ in timed]
    axes.set(xlim=(min(frames) - 1, max(frames) + 1), ylim=(low, high))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    tooltips: list[str] = []
    for place, result, value in timed:
        (dot,) = axes.plot(result.num_frames, max(value, low), "o", color=_color(place), markersize=5, alpha=0.6)
        _add_tooltip(dot, f"{result.method}, {result.clip}: {format_number(value)} s", tooltips)
    return _svg(figure, "Seconds by number of frames", tooltips)


def _color(place: int) -> str:
    """Return the placeholder of the color of a method."""
    return f"#00000{place % NUM_COLORS + 1}"


def _dashes(place: int) -> tuple[int, int]:
    """Return the lengths of dashes and gaps of a method that repeats a color."""
    return max(1, 6 // (place // NUM_COLORS)), 3


def _axes(height: float, label: str, grid: str) -> "tuple[Figure, Axes]":
    """Return a figure without frame, with grid lines and the label of the horizontal axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    inside = (_LEFT / _WIDTH, _BOTTOM / height, 1 - (_LEFT + _RIGHT) / _WIDTH, 1 - (_TOP + _BOTTOM) / height)
    axes = figure.add_axes(inside, frame_on=False)
    figure.patch.set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=_INK, alpha=0.12, linewidth=0.7)  # pyright: ignore[reportArgumentType]
    axes.tick_params(which="both", length=0, labelsize=8, labelcolor=_INK)
    axes.locator_params(nbins=5, steps=[1, 2, 5, 10])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_tick_name)
    axes.set_xlabel(label, fontsize=8.6, color=_INK, parse_math=False)
    return figure, axes


def _log_range(values: np.ndarray) -> tuple[float, float]:
    """Return positive bounds of a logarithmic axis; values of 0 are drawn at the lower bound."""
    positive = values[values > 0] if (values > 0).any() else np.ones(1)
    # At most five decades, so that one tiny value does not compress all others.
    return max(positive.min(), 1e-5 * positive.max()) / 1.3, positive.max() * 1.3


def _set_log_scale(axes: "Axes", axis: "Axis", low: float, high: float) -> None:
    """Make an axis logarithmic, with a few labels also on a part of a decade."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 2 else (1.0,)
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]) if decades < 0.8 else LogLocator(subs=steps, numticks=7))
    axis.set_major_formatter(_tick_name)
    axis.set_minor_locator(NullLocator())


def _tick_name(tick: float, _: object) -> str:
    return f"{tick:.6g}" if abs(tick) < 1e-9 or 1e-4 <= abs(tick) < 1e6 else f"{tick:.0e}"


def _add_tooltip(artist: "Artist", text: str, tooltips: list[str]) -> None:
    artist.set_gid(f"tooltip-{len(tooltips)}")
    tooltips.append(text)


def _svg(figure: "Figure", name: str, tooltips: Sequence[str]) -> str:
    """Return the SVG element of a figure for a page that contains several, which must not share their identifiers."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    # Keep the drawing without identifiers, fonts and clipping; markers are the only definitions that it refers to.
    svg = re.sub(r"(?s)^.*?<svg [^>]*>|<metadata>.*?</metadata>|<!--.*?-->|<g id=\"(?!tooltip)[^\"]*\"/>", "", svg)
    svg = re.sub(r"(?s)<defs>\s*<(?:style|clipPath).*?</defs>", "", svg)
    svg = re.sub(r' clip-path="[^"]*"|font-family: [^;]*; | transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r'<g id="(?!tooltip)[^"]*">', "<g>", svg).replace("xlink:href", "href").replace(_INK, "currentColor")
    svg = re.sub(r"#00000([1-8])", lambda found: f"var(--c{int(found[1]) - 1})", re.sub(r"\s*\n\s*", "\n", svg))
    svg = re.sub(r'<g id="tooltip-(\d+)">', lambda found: f"<g><title>{escape(tooltips[int(found[1])])}</title>", svg)
    return f'<svg class="chart" {view[0]} role="img" aria-label="{escape(name)}">{svg.strip()}'
