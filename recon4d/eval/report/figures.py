"""Figures of the HTML report as inline SVG: intervals, cumulative distributions over clips, and computing time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from recon4d.eval.report.headline import format_number, method_names
from recon4d.eval.report.summary import Summary
from recon4d.eval.scoring import METRICS, SECONDS, ClipResult

NUM_COLORS = 8
"""Number of different colors; further methods repeat them with dashed lines."""

FIGURE_STYLE = """
:root { --c0: #2f6db5; --c1: #d1601f; --c2: #3a8a5f; --c3: #9a4fa3; --c4: #b0892b; --c5: #c0405a; --c6: #3d97a8;
  --c7: #7a7f87; }
@media (prefers-color-scheme: dark) { :root { --c0: #7fb0ec; --c1: #f09a62; --c2: #76c99b; --c3: #cf93d8; --c4: #dcbc66;
  --c5: #ee8398; --c6: #7fcbd8; --c7: #aab0b8; } }
svg.chart { width: 100%; height: auto; display: block; overflow: visible; }
svg.chart text { font-size: 11px; fill: currentColor; opacity: 0.75; }
svg.chart text.axis { font-size: 12px; }
svg.chart .grid { stroke: currentColor; opacity: 0.12; }
svg.chart .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
"""
"""Style sheet shared by all figures of a page, for light and dark color schemes."""

_WIDTH, _HEIGHT = 360, 230
"""Size of a figure in SVG units."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 42
"""Margins around the plot area in SVG units."""
_MAX_TICKS = 6
"""Largest number of labeled ticks of a logarithmic axis."""


@dataclass(frozen=True)
class _Axis:
    """Map from the values `low` to `high` to the coordinates `start` to `end`."""

    low: float
    high: float
    is_log: bool
    start: float
    end: float

    def coordinate(self, value: float) -> float:
        """Return the coordinate of a value, clamped to the axis."""
        low, high, value = (self._scaled(v) for v in (self.low, self.high, min(max(value, self.low), self.high)))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Return a few round values within the axis."""
        if not self.is_log:
            return _round_steps(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        fine = [f * 10.0**d for d in decades for f in (1, 2, 5)]
        choices = [fine, *([10.0**d for d in decades if d % every == 0] for every in (1, 2, 4))]
        inside = [[tick for tick in ticks if self.low <= tick <= self.high] for ticks in choices]
        return next((ticks for ticks in inside if len(ticks) <= _MAX_TICKS), inside[-1])

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


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
    ends = [end for _, s in defined for end in (s.value, s.low, s.high) if math.isfinite(end)]
    margin = 0.08 * (max(ends) - min(ends)) or 0.1 * abs(max(ends)) or 1.0
    height = _TOP + 26 * len(methods) + _BOTTOM
    across = _Axis(min(ends) - margin, max(ends) + margin, False, _LEFT / 2, _WIDTH - _RIGHT)
    metric = summaries[0].metric
    parts = [*_vertical_grid(across, height), _axis_name(f"{metric.name} ({metric.unit})", height)]
    for place, summary in defined:
        y, x = _TOP + 26 * place + 13, across.coordinate(summary.value)
        low, high = across.coordinate(summary.low), across.coordinate(summary.high)
        color = _color(place)
        interval = f"{format_number(summary.low)} to {format_number(summary.high)}"
        tooltip = f"{summary.method}: {format_number(summary.value)} ({interval})"
        parts.append(
            f"<g><title>{escape(tooltip)}</title>"
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="3" '
            'opacity="0.45"/>'
            f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="{color}"/></g>'
        )
    return _svg(height, f"{metric.name} of every method", parts)


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
        method: [score.value for result in results if result.method == method and (score := result.score(metric))]
        for method in method_names(results)
    }
    finite = [value for of_method in values.values() for value in of_method if math.isfinite(value)]
    if not finite:
        return ""
    is_lower = METRICS[metric].better == "lower"
    low, high = _log_range(finite) if is_lower else (min(0.0, *finite), max(1.0, *finite))
    across = _Axis(low, high, is_lower, _LEFT, _WIDTH - _RIGHT)
    up = _Axis(0.0, 1.0, False, _HEIGHT - _BOTTOM, _TOP)
    relation = "at most" if is_lower else "at least"
    parts = [
        *_vertical_grid(across, _HEIGHT),
        *_horizontal_grid(up),
        _axis_name(f"share of clips with {metric} {relation} ({METRICS[metric].unit})", _HEIGHT),
    ]
    for place, (method, of_method) in enumerate(values.items()):
        if any(map(math.isfinite, of_method)):
            steps = _steps(of_method, is_lower, low, high)
            path = " ".join(f"{across.coordinate(x):.1f},{up.coordinate(y):.1f}" for x, y in steps)
            parts.append(
                f'<polyline class="curve" points="{path}" stroke="{_color(place)}"{_dashes(place)}>'
                f"<title>{escape(method)}</title></polyline>"
            )
    return _svg(_HEIGHT, f"Share of clips by {metric}", parts)


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
        if result.method == method and (score := result.score(SECONDS.name)) and math.isfinite(score.value)
    ]
    if not timed:
        return ""
    frames = [result.num_frames for _, result, _ in timed]
    # At least two frames wide, because only whole frames are labeled.
    across = _Axis(min(frames) - 1, max(frames) + 1, False, _LEFT, _WIDTH - _RIGHT)
    up = _Axis(*_log_range([value for *_, value in timed]), True, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        *_vertical_grid(across, _HEIGHT, is_integer=True),
        *_horizontal_grid(up),
        _axis_name("seconds by number of frames", _HEIGHT),
    ]
    for place, result, value in timed:
        tooltip = f"{result.method}, {result.clip}: {format_number(value)} s"
        x, y = across.coordinate(result.num_frames), up.coordinate(value)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_color(place)}" opacity="0.6">'
            f"<title>{escape(tooltip)}</title></circle>"
        )
    return _svg(_HEIGHT, "Seconds by number of frames", parts)


def method_swatch(place: int) -> str:
    """Draw a line in the color of a method, for legends and tables.

    Args:
        place: Position of the method in the order of methods.

    Returns:
        An SVG element.
    """
    line = f'<line x1="0" x2="22" y1="6" y2="6" stroke="{_color(place)}" stroke-width="4"{_dashes(place)}/>'
    return f'<svg class="swatch" width="22" height="12" aria-hidden="true">{line}</svg>'


def _steps(values: list[float], is_lower: bool, low: float, high: float) -> list[tuple[float, float]]:
    """Return the corners of the step curve: the fraction of values at most x, or at least x if higher is better."""
    defined = sorted((v for v in values if not math.isnan(v)), reverse=not is_lower)
    start, end = (low, high) if is_lower else (high, low)
    corners = [(start, 0.0)]
    for position, value in enumerate(defined):
        corners += [(value, position / len(values)), (value, (position + 1) / len(values))]
    return [*corners, (end, len(defined) / len(values))]


def _log_range(values: list[float]) -> tuple[float, float]:
    """Return positive bounds of a logarithmic axis; values of 0 are drawn at the lower bound."""
    positive = [value for value in values if value > 0] or [1.0]
    # At most five decades, so that one tiny value does not compress all others.
    low, high = max(min(positive), 1e-5 * max(positive)), max(positive)
    return (low / 1.3, high * 1.3)


def _round_steps(low: float, high: float) -> list[float]:
    """Return up to six multiples of 1, 2 or 5 times a power of ten."""
    ten = 10.0 ** math.floor(math.log10(high - low))
    step = next(step for step in (0.2 * ten, 0.5 * ten, ten, 2 * ten) if (high - low) / step <= 5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * position for position in range(first, last + 1)]


def _vertical_grid(axis: _Axis, height: float, is_integer: bool = False) -> list[str]:
    parts = []
    for tick in axis.ticks():
        if is_integer and tick != round(tick):
            continue
        x = f"{axis.coordinate(tick):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        parts.append(f'<text x="{x}" y="{height - _BOTTOM + 15}" text-anchor="middle">{_tick_name(tick)}</text>')
    return parts


def _horizontal_grid(axis: _Axis) -> list[str]:
    parts = []
    for tick in axis.ticks():
        y = axis.coordinate(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick_name(tick)}</text>')
    return parts


def _tick_name(tick: float) -> str:
    return f"{tick:.6g}" if abs(tick) < 1e-9 or 1e-4 <= abs(tick) < 1e6 else f"{tick:.0e}"


def _axis_name(name: str, height: float) -> str:
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return f'<text class="axis" x="{middle}" y="{height - 6}" text-anchor="middle">{escape(name)}</text>'


def _color(place: int) -> str:
    return f"var(--c{place % NUM_COLORS})"


def _dashes(place: int) -> str:
    return f' stroke-dasharray="{max(1, 6 // (place // NUM_COLORS))} 3"' if place >= NUM_COLORS else ""


def _svg(height: float, name: str, parts: list[str]) -> str:
    inside = "".join(parts)
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(name)}">{inside}</svg>'
