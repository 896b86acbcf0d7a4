"""Numbers, coverage and failures in words, and the tables for the terminal."""

import math
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reports import evaluation, result, share, summary, two_methods, written

from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.eval.predictions import Prediction
from recon4d.eval.report.headline import (
    HEADLINE,
    SECTIONS,
    TRACK_HEADLINE,
    coverage_lines,
    describe_coverage,
    format_number,
    section_metrics,
    status_lines,
)
from recon4d.eval.report.tables import headline_table, print_tables
from recon4d.eval.runner import Evaluation
from recon4d.eval.scoring import METRICS, score_prediction


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.0, "0.000"),
        (0.12345, "0.123"),
        (-0.5, "-0.500"),
        (9.9994, "9.999"),
        (9.9996, "10.00"),
        (12.345, "12.35"),
        (99.996, "100.0"),
        (123.456, "123.5"),
        (999.96, "1000"),
        (54321.0, "54321"),
        (1e6, "1.0e+06"),
        (0.00012, "1.2e-04"),
        (0.001, "0.001"),
        (math.nan, "-"),
        (math.inf, "inf"),
    ],
)
def test_numbers_have_about_three_significant_digits(value: float, wanted: str):
    assert format_number(value) == wanted


@settings(max_examples=40, deadline=None)
@example(0.0018403941680247837)
@given(st.floats(-1e12, 1e12, allow_nan=False))
def test_a_formatted_number_is_close_to_the_number(value: float):
    # Three decimals from 0.001 on, two significant digits below.
    rounding = 0.000501 if abs(value) >= 0.001 else 0
    assert float(format_number(value)) == pytest.approx(value, rel=0.051, abs=rounding)


def test_every_metric_is_in_one_section_and_the_headlines_follow_from_their_flags():
    names = [metric.name for section in SECTIONS for metric in section_metrics(section)]
    assert sorted(names) == sorted(METRICS)
    assert (
        *("auc_30", "auc_5", "registered", "ate", "abs_rel", "delta_1", "point_epe", "epe", "moving_epe"),
        *("visibility_accuracy", "moving_iou", "seconds"),
    ) == HEADLINE
    assert (
        *("apd3d", "epe", "apd3d_sim3", "epe_sim3", "worldtrack_apd3d_global", "worldtrack_epe_global"),
        *("worldtrack_apd3d_sim3", "worldtrack_epe_sim3"),
    ) == TRACK_HEADLINE


def test_incomplete_predictions_are_counted_for_each_method():
    many = [result("colmap", str(i), status="failed") for i in range(7)]
    many += [result("colmap", str(i), status="partial") for i in range(7, 12)]
    many += [result("colmap", str(i)) for i in range(12, 63)] + [result("colmap", "63", status="timed out")]
    assert status_lines([*many, result("net", "0")]) == ("colmap: 5 partial, 7 failed, 1 timed out of 64 clips",)
    assert status_lines([result("net", "0", status="partial")]) == ("net: 1 partial of 1 clip",)


def test_incomplete_coverage_is_described_and_worst_values_count_as_covered():
    sparse = {"num_measured": 57, "count": 21, "total": 1000}
    lines = coverage_lines(
        [
            summary("abs_rel", method="colmap", **sparse),
            summary("point_epe", method="colmap", **sparse),
            summary("ate", method="colmap", count=50),
            # Worst values are part of the mean, although nothing was measured on those clips.
            summary("auc_30", method="colmap", num_worst=7, count=50),
            summary("delta_1", method="colmap", num_measured=60),
            summary("moving_epe", math.nan, method="colmap", num_measured=0, count=0),
            summary("abs_rel"),
            # Not a main metric.
            summary("rmse", num_measured=1),
        ]
    )
    assert lines == (
        "ate of colmap is over 64 of 64 clips, 50.0 % of the frames",
        "abs_rel and point_epe of colmap are over 57 of 64 clips, 2.1 % of the pixels",
        "delta_1 of colmap is over 60 of 64 clips",
        "moving_epe of colmap is over 0 of 64 clips",
    )


def test_coverage_is_described_in_words():
    assert describe_coverage(summary("abs_rel", count=99_960, total=100_000)) == ""
    assert describe_coverage(summary("abs_rel", count=99_940, total=100_000)) == "64 of 64 clips, 99.9 % of the pixels"
    assert describe_coverage(summary("abs_rel", count=2, total=100_000)) == "64 of 64 clips, 0.002 % of the pixels"
    assert describe_coverage(summary("abs_rel", count=0, total=0)) == ""
    # delta_1 is the share of the predicted pixels; metrics of tracks count missing tracks as wrong.
    assert describe_coverage(summary("delta_1", count=2)) == "64 of 64 clips, 2.0 % of the pixels"
    assert describe_coverage(summary("visibility_accuracy", count=50)) == ""
    assert describe_coverage(summary("epe", count=50)) == "64 of 64 clips, 50.0 % of the points"
    description = "64 of 64 clips, all of them without a prediction, 0 % of the pixels"
    assert describe_coverage(summary("delta_1", 0.0, num_worst=64, count=0)) == description
    assert describe_coverage(summary("seconds", num_clips=1, num_measured=0, count=0)) == "0 of 1 clip"
    assert describe_coverage(summary("moving_iou", 0.0, num_measured=2, num_worst=2)) == (
        "2 of 64 clips, all of them without a prediction"
    )
    assert describe_coverage(summary("moving_iou", 0.0, num_measured=64, num_worst=64)) == ""


def test_the_table_for_the_terminal_has_a_row_for_each_method_and_notes():
    table = headline_table(replace(two_methods(), unreadable=("c: depth.png: is empty", "d: gone")))
    head, units, net, colmap, empty, *notes = table.splitlines()
    assert head.split() == list(HEADLINE)
    assert units.split()[0] == "share"
    assert net.split() == ["net", "0.600", "-", "-", "-", "0.200", *["-"] * 6, "3.000"]
    assert colmap.split() == ["colmap", "0.450", "-", "-", "-", "0.050", *["-"] * 7]
    assert {len(head), len(units), len(net), len(colmap)} == {len(head)}
    assert empty == ""
    assert notes == [
        "colmap: 1 partial, 1 failed of 2 clips",
        "unreadable: 2 of 2 clips: c: depth.png: is empty (and 1 more)",
        "abs_rel of colmap is over 1 of 2 clips, 1.0 % of the pixels",
    ]
    assert len(headline_table(evaluation(result("net", "a", share("auc_30", 0.5)))).splitlines()) == 3


def with_tracks() -> Evaluation:
    """True tracks in other units and at another place than the cameras, and a method without tracks."""
    truth = SyntheticScenes(SyntheticConfig(num_frames=4, height=48, width=64)).sample(1).scene
    scaled = truth.scaled(0.37)
    moved = replace(scaled, tracks=replace(scaled.tracks, points=scaled.tracks.points + 0.5))
    benchmark = replace(evaluation(result("net", "a")).benchmark, protocols=("worldtrack",))
    results = [
        score_prediction(method, "a", Prediction.from_scene(scene, 1.0), truth, benchmark)
        for method, scene in (("moved", moved), ("trackless", replace(truth, tracks=None)))
    ]
    return Evaluation(benchmark, tuple(results), ())


def test_tracks_have_a_table_of_apd3d_and_epe_after_both_alignments(tmp_path: Path) -> None:
    """Sim(3) undoes the translation of the tracks, one median scale does not."""
    of = with_tracks()
    added = ["worldtrack_apd3d_global", "worldtrack_epe_global", "worldtrack_apd3d_sim3", "worldtrack_epe_sim3"]
    _, table, *_ = headline_table(of).split("\n\n")
    head, *lines = table.splitlines()
    assert head.split() == ["tracks", "alignment", "moved", "trackless"]
    rows = {line.split()[0]: re.split(r"\s\s+", line)[1:] for line in lines}
    assert list(rows) == ["apd3d", "epe", "apd3d_sim3", "epe_sim3", *added]
    for name, (unit, alignment, moved, trackless) in rows.items():
        is_share, is_sim3 = "apd3d" in name, name.endswith("sim3")
        assert unit == ("share" if is_share else "m")
        assert alignment.startswith("sim3") == is_sim3
        assert trackless == "-"
        assert (float(moved) > 0.999 if is_share else float(moved) < 0.001) == is_sim3
    page = written(tmp_path, of)["report.html"]
    summary = page[page.index("<h2>Summary</h2>") : page.index("<h2>Failures</h2>")]
    assert "<h3>Tracks</h3>" in summary
    assert all(f"<summary>{name} <span" in summary for name in rows)


def test_all_metrics_are_printed_on_request():
    of = evaluation(result("net", "a", share("auc_30", 0.5), share("rra_5", 0.25), share("seconds", 2.0)))
    assert "rra_5" not in headline_table(of)
    sections = headline_table(of, all_metrics=True).split("\n\n")[1:]
    assert [section.splitlines()[0].split()[0] for section in sections] == ["cameras", "cost"]
    assert [line.split() for line in sections[0].splitlines()[1:]] == [
        ["auc_30", "share", "none", "0.500"],
        ["rra_5", "share", "none", "0.250"],
    ]


class Terminal(StringIO):
    """A terminal, as far as rich can tell."""

    def isatty(self) -> bool:
        return True


def test_a_narrow_terminal_gets_a_row_for_each_metric_and_a_pipe_the_full_width(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    terminal, pipe, name = Terminal(), StringIO(), "a [bold]long[/bold] name of a method, :smile: " * 3
    of = evaluation(result("net", "a", share("auc_30", 0.5)), result(name, "a", share("auc_30", 0.25)))
    print_tables(two_methods(), file=terminal)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).split("\n\n")[0].splitlines()
    assert lines[0].split() == ["alignment", "net", "colmap"]
    assert lines[1].split() == ["auc_30", "share", "none", "0.600", "0.450"]
    assert max(map(len, lines)) <= 60
    print_tables(of, file=pipe)
    assert f"{name.strip()}  0.250" in re.sub(" {3,}", "  ", pipe.getvalue())
    assert "\x1b" not in pipe.getvalue()


def test_without_true_tracks_there_is_no_table_of_them(tmp_path: Path) -> None:
    assert "tracks" not in headline_table(two_methods())
    assert "<h3>Tracks</h3>" not in written(tmp_path, two_methods())["report.html"]
