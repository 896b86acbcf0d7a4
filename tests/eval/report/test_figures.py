"""Figures show values, intervals and distributions at the right places."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from reports import result, share, summary

from recon4d.eval.metrics.score import undefined
from recon4d.eval.report.figures import (
    cumulative_figure,
    cumulative_steps,
    interval_figure,
    method_swatch,
    seconds_figure,
)
from recon4d.eval.report.summary import summarize


def drawn(svg: str) -> dict[str, list[ElementTree.Element]]:
    """Return the groups with a tooltip by their tooltips, after a check that the element is well-formed."""
    found: dict[str, list[ElementTree.Element]] = {}
    for group in ElementTree.fromstring(svg).iter("g"):
        if (title := group.findtext("title")) is not None:
            found.setdefault(title, []).append(group)
    return found


def corners(group: ElementTree.Element) -> np.ndarray:
    """Return the corners (x, y) of the only path of a group, in SVG units."""
    (path,) = group.findall("path")
    return np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.attrib["d"]), dtype=float)


def dots(svg: str) -> dict[str, tuple[float, float]]:
    """Return the positions of dots by their tooltips."""
    uses = {title: [use for group in groups for use in group.iter("use")] for title, groups in drawn(svg).items()}
    return {title: (float(use.attrib["x"]), float(use.attrib["y"])) for title, (use,) in uses.items()}


def labels(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter("text")]


def test_a_curve_is_the_fraction_of_clips_and_ends_below_one_if_values_are_missing():
    values, fractions = cumulative_steps(np.array([0.01, 1.0, 0.1, math.nan]), True, 0.005, 2.0)
    assert values.tolist() == [0.005, 0.01, 0.1, 1.0, 2.0]
    assert fractions.tolist() == [0.0, 0.25, 0.5, 0.75, 0.75]
    scores = [*(share("abs_rel", v) for v in (0.01, 1.0, 0.1)), undefined("abs_rel", 1, "none")]
    results = [result("net", str(i), score) for i, score in enumerate(scores)]
    results += [result("<b>", "0", share("abs_rel", 0.1)), result("without", "0")]
    curves = drawn(cumulative_figure("abs_rel", results))
    assert list(curves) == ["net", "<b>"]
    (x, y), (other_x, other_y) = (corners(curves[name][0]).T for name in ("net", "<b>"))
    share_of_height = (y[0] - y) / (y[0] - other_y.min())
    assert share_of_height[0::2] == pytest.approx([0, 0.25, 0.5, 0.75, 0.75], abs=1e-3)
    # The axis is logarithmic: steps at 0.01, 0.1 and 1 are at equal distances, and both methods share it.
    assert np.diff(x[2:7:2]) == pytest.approx([x[4] - x[2]] * 2, abs=0.01)
    assert other_x[2] == x[4]


def test_a_curve_is_the_fraction_of_values_at_least_x_if_higher_is_better():
    values, fractions = cumulative_steps(np.array([0.25, 1.0, 0.5, 0.5]), False, 0.0, 1.0)
    assert values.tolist() == [1.0, 1.0, 0.5, 0.5, 0.25, 0.0]
    assert fractions.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_figures_without_values_are_empty():
    nothing = [result("net", "a", undefined("abs_rel", 1, "none"))]
    assert cumulative_figure("abs_rel", nothing) == cumulative_figure("epe", nothing) == seconds_figure(nothing) == ""
    assert interval_figure([summary("ate", math.nan)], ["net"]) == interval_figure([], []) == ""


@pytest.mark.parametrize("values", [[0.0], [1e8], [1e-9, 1e8], [0.2, 0.31], [0.5, math.inf]])
@pytest.mark.parametrize("metric", ["abs_rel", "auc_30"])
def test_drawings_stay_inside_their_area_with_a_few_ticks(values: list[float], metric: str):
    results = [result("net", str(i), share(metric, v), share("seconds", v)) for i, v in enumerate(values)]
    figures = [
        cumulative_figure(metric, results),
        seconds_figure(results),
        interval_figure([s for s in summarize(results) if s.metric.name == metric], ["net"]),
    ]
    for svg in filter(None, figures):
        width, height = (float(size) for size in ElementTree.fromstring(svg).attrib["viewBox"].split()[2:])
        places = [
            corners(group) for groups in drawn(svg).values() for group in groups if group.find("path") is not None
        ]
        places += [np.array(re.findall(r'<use [^>]*x="([-\d.]+)" y="([-\d.]+)"', svg), dtype=float).reshape(-1, 2)]
        for x, y in np.concatenate(places):
            assert 0 <= x <= width
            assert 0 <= y <= height
        assert 2 <= len(labels(svg)) <= 16
        assert "url(" not in svg


def test_intervals_surround_their_values_and_colors_identify_methods():
    summaries = [summary("ate", 1.0, "a"), summary("ate", 3.0, "c", low=1.0, high=4.0)]
    svg = interval_figure(summaries, ["a", "b", "c"])
    tooltips = ["a: 1.000 (0.900 to 1.100)", "c: 3.000 (1.000 to 4.000)"]
    assert list(drawn(svg)) == tooltips
    (a, c), interval = (dots(svg)[tooltip] for tooltip in tooltips), drawn(svg)[tooltips[1]][0]
    assert "var(--c2)" in interval.findall("path")[0].attrib["style"]
    assert c[1] - a[1] == pytest.approx(2 * 0.26 * 72)  # the row of b is empty
    # Both share one scale: the interval of c starts at the value of a, and its value is at two thirds.
    (low, _), (high, _) = corners(interval)
    assert low == pytest.approx(a[0], abs=0.01)
    assert c[0] == pytest.approx(low + (high - low) * 2 / 3, abs=0.01)


def test_seconds_have_a_logarithmic_axis_and_whole_frames():
    results = [result("net", str(n), share("seconds", s), frames=n) for n, s in ((10, 0.1), (20, 1.0), (30, 10.0))]
    places = dots(seconds_figure(results))
    assert list(places) == ["net, 10: 0.100 s", "net, 20: 1.000 s", "net, 30: 10.00 s"]
    x, y = np.array(list(places.values())).T
    assert np.diff(y) == pytest.approx([y[1] - y[0]] * 2, abs=0.01)
    assert np.diff(x) == pytest.approx([x[1] - x[0]] * 2, abs=0.01)
    assert y[0] > y[1] > y[2]
    assert x[0] < x[1] < x[2]
    assert {"9", "10", "11"} <= set(labels(seconds_figure(results[:1])))
    assert "9.5" not in labels(seconds_figure(results[:1]))


def test_tooltips_are_escaped_and_keep_texts_that_look_like_colors():
    name = '</title>"&#000001 #000000'
    assert list(drawn(seconds_figure([result(name, "a", share("seconds", 1.0))]))) == [f"{name}, a: 1.000 s"]


def test_many_methods_differ_by_dashes():
    swatches = [method_swatch(place) for place in range(70)]
    assert len(set(swatches[:24])) == 24
    assert "dash" not in swatches[7]
    assert "dash" in swatches[8]
    assert not any('dasharray="0' in swatch for swatch in swatches)
