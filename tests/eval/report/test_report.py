"""Reports contain metrics, failures and coverage; pictures show frames, depth, errors and camera paths."""

import base64
import csv
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import walls
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from scenes import make_clip, make_scene

from recon4d.datasets import Sample
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.errors import UserError
from recon4d.eval.benchmarks import Benchmark
from recon4d.eval.metrics.score import Score, undefined
from recon4d.eval.predictions import Prediction
from recon4d.eval.report.clip_pictures import MAX_BYTES, WIDTH, write_clip_picture
from recon4d.eval.report.clips import MAX_PICTURES, select_pictured_clips, worst_first
from recon4d.eval.report.figures import (
    cumulative_figure,
    interval_figure,
    method_swatch,
    seconds_figure,
)
from recon4d.eval.report.files import headline_table, write_report
from recon4d.eval.report.headline import (
    GROUPS,
    HEADLINE,
    coverage_lines,
    describe_coverage,
    format_number,
    status_lines,
)
from recon4d.eval.report.path_pictures import aligned_camera_centers, draw_paths
from recon4d.eval.report.summary import Summary, summarize
from recon4d.eval.runner import Evaluation
from recon4d.eval.scoring import METRICS, ClipResult, score_prediction
from recon4d.geometry import rotation_from_axis_angle, similarity
from recon4d.records import scale_scene

SVG = "{http://www.w3.org/2000/svg}"


def result(method: str, clip: str, *scores: Score, status: str = "ok", reason: str = "", frames: int = 8) -> ClipResult:
    return ClipResult(method, clip, frames, status, reason, scores)  # pyright: ignore[reportArgumentType]


def share(metric: str, value: float, note: str = "") -> Score:
    return Score(metric, value, 0 if note else 10, 10, "none", note)


def evaluation(
    *results: ClipResult, unreadable: tuple[str, ...] = (), name: str = "toy", split: str = ""
) -> Evaluation:
    clips = tuple(dict.fromkeys(r.clip for r in results)) + tuple(line.split(":")[0] for line in unreadable)

    def read(clip: str) -> Sample:
        raise AssertionError("a report does not read ground truth")

    return Evaluation(Benchmark(name, split, clips, read), results, unreadable)


def two_methods() -> Evaluation:
    """A network with all predictions, and COLMAP with one of two clips and few of its pixels."""
    reason = "no initial pair"
    return evaluation(
        result(
            "net", "a", share("auc_30", 0.5), Score("abs_rel", 0.1, 100, 100, "median scale"), share("seconds", 2.0)
        ),
        result(
            "net", "b", share("auc_30", 0.7), Score("abs_rel", 0.3, 300, 300, "median scale"), share("seconds", 4.0)
        ),
        result("colmap", "a", share("auc_30", 0.9), Score("abs_rel", 0.05, 4, 100, "median scale"), status="partial"),
        result(
            *(
                "colmap",
                "b",
                share("auc_30", 0.0, "no prediction"),
                undefined("abs_rel", 300, "nothing", "median scale"),
            ),
            status="failed",
            reason=reason,
        ),
    )


def written(folder: Path, of: Evaluation) -> dict[str, str]:
    write_report(folder, of, (("device", "cpu"),))
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


# Numbers and texts


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


@settings(deadline=None)
@example(0.0018403941680247837)
@given(st.floats(-1e12, 1e12, allow_nan=False))
def test_a_formatted_number_is_close_to_the_number(value: float):
    # Three decimals from 0.001 on, two significant digits below.
    rounding = 0.000501 if abs(value) >= 0.001 else 0
    assert float(format_number(value)) == pytest.approx(value, rel=0.051, abs=rounding)


def test_every_metric_is_in_one_group_and_the_headline_contains_metrics():
    names = [metric.name for _, _, metrics in GROUPS for metric in metrics]
    assert sorted(names) == sorted(METRICS)
    assert set(HEADLINE) <= set(METRICS)


def test_incomplete_predictions_are_counted_for_each_method():
    many = [result("colmap", str(i), status="failed") for i in range(7)]
    many += [result("colmap", str(i), status="partial") for i in range(7, 12)]
    many += [result("colmap", str(i)) for i in range(12, 63)] + [result("colmap", "63", status="timed out")]
    assert status_lines([*many, result("net", "0")]) == ("colmap: 5 partial, 7 failed, 1 timed out of 64 clips",)
    assert status_lines([result("net", "0", status="partial")]) == ("net: 1 partial of 1 clip",)


def summary(metric: str, value: float = 0.5, method: str = "net", **changes) -> Summary:
    whole = Summary(method, METRICS[metric], value, value - 0.1, value + 0.1, 64, 64, 0, 100, 100, "none")
    return replace(whole, **changes)


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


def with_tracks(*protocols: str) -> Evaluation:
    """True tracks in other units and at another place than the cameras, and a method without tracks."""
    truth = SyntheticScenes(SyntheticConfig(num_frames=4, height=48, width=64)).sample(1).scene
    scaled = scale_scene(truth, 0.37)
    assert scaled.tracks is not None
    moved = replace(scaled, tracks=replace(scaled.tracks, points=scaled.tracks.points + 0.5))
    benchmark = replace(evaluation(result("net", "a")).benchmark, protocols=protocols)
    results = [
        score_prediction(method, "a", Prediction.from_scene(scene, 1.0), truth, benchmark)
        for method, scene in (("moved", moved), ("trackless", replace(truth, tracks=None)))
    ]
    return Evaluation(benchmark, tuple(results), ())


@pytest.mark.parametrize(
    ("protocols", "added"),
    [
        ((), []),
        (
            ("worldtrack",),
            ["worldtrack_apd3d_global", "worldtrack_epe_global", "worldtrack_apd3d_sim3", "worldtrack_epe_sim3"],
        ),
    ],
)
def test_tracks_have_a_table_of_apd3d_and_epe_after_both_alignments(
    tmp_path: Path, protocols: tuple[str, ...], added: list[str]
) -> None:
    """Sim(3) undoes the translation of the tracks, one median scale does not."""
    of = with_tracks(*protocols)
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


def test_without_true_tracks_there_is_no_table_of_them(tmp_path: Path) -> None:
    assert "tracks" not in headline_table(two_methods())
    assert "<h3>Tracks</h3>" not in written(tmp_path, two_methods())["report.html"]


# Files


def test_the_json_is_complete_and_strict(tmp_path: Path):
    infinite = result("net", "c", Score("ate", math.inf, 1, 1, "sim3"))
    of = evaluation(*two_methods().results, infinite, unreadable=("d: gone",), split="8")

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads(written(tmp_path, of)["report.json"], parse_constant=refuse)
    assert set(report) == {
        *("benchmark", "split", "clips", "created", "version", "settings", "unreadable"),
        *("methods", "details", "results"),
    }
    assert (report["benchmark"], report["split"], report["clips"]) == ("toy", "8", 4)
    assert (report["settings"], report["unreadable"]) == ({"device": "cpu"}, ["d: gone"])
    assert report["methods"]["net"] == {"auc_30": 0.6, "ate": None, "abs_rel": 0.2, "seconds": 3.0}
    assert report["methods"]["colmap"] == {"auc_30": 0.45, "abs_rel": 0.05}
    details = report["details"]["colmap"]["abs_rel"]
    assert details == {
        **{"value": 0.05, "low": 0.05, "high": 0.05, "unit": "ratio", "better": "lower", "alignment": "median scale"},
        **{"clips": 2, "measured": 1, "worst": 0, "count": 4, "total": 400},
        "definition": METRICS["abs_rel"].definition,
    }
    assert report["details"]["colmap"]["auc_30"]["worst"] == 1
    assert report["results"][0]["notes"] == {}
    assert report["results"][3] == {
        **{"method": "colmap", "clip": "b", "status": "failed", "reason": "no initial pair", "num_frames": 8},
        "scores": {"auc_30": 0.0, "abs_rel": None},
        "notes": {"auc_30": "no prediction", "abs_rel": "nothing"},
    }
    assert [(r["method"], r["clip"]) for r in report["results"]] == [(r.method, r.clip) for r in of.results]


def test_the_csv_files_contain_the_summaries_and_every_clip(tmp_path: Path):
    of = two_methods()
    files = written(tmp_path, of)
    rows = list(csv.DictReader(StringIO(files["report.csv"])))
    assert list(rows[0]) == [
        *("method", "metric", "value", "low", "high", "unit", "alignment"),
        *("clips", "measured", "worst", "count", "total"),
    ]
    assert [(row["method"], row["metric"]) for row in rows] == [
        (s.method, s.metric.name) for s in summarize(of.results)
    ]
    row = next(row for row in rows if (row["method"], row["metric"]) == ("net", "abs_rel"))
    assert float(row["value"]) == np.mean([0.1, 0.3])
    assert (float(row["low"]), float(row["high"])) == (0.1, 0.3)
    assert [row[name] for name in ("unit", "alignment", "clips", "measured", "worst", "count", "total")] == [
        *("ratio", "median scale", "2", "2", "0", "400", "400"),
    ]
    clips = list(csv.DictReader(StringIO(files["clips.csv"])))
    assert list(clips[0]) == ["method", "clip", "status", "reason", "seconds", "frames", "auc_30", "abs_rel"]
    assert clips[1] == {
        **{"method": "net", "clip": "b", "status": "ok", "reason": "", "seconds": "4.0", "frames": "8"},
        **{"auc_30": "0.7", "abs_rel": "0.3"},
    }
    assert (clips[3]["reason"], clips[3]["abs_rel"], clips[3]["seconds"]) == ("no initial pair", "", "")


def test_the_same_evaluation_gives_the_same_bytes_except_for_the_time(tmp_path: Path):
    first, second = written(tmp_path / "one", two_methods()), written(tmp_path / "two", two_methods())
    assert set(first) == {"report.json", "report.csv", "clips.csv", "report.html"}
    assert not [path for path in (tmp_path / "one").iterdir() if b"\r" in path.read_bytes()]
    created = [json.loads(files["report.json"])["created"] for files in (first, second)]
    for name in first:
        texts = []
        for files, time in zip((first, second), created, strict=True):
            shown = time.replace("T", " ").replace("+00:00", " UTC")
            assert (time in files[name] or shown in files[name]) == (name in ("report.json", "report.html"))
            texts.append(files[name].replace(time, "").replace(shown, ""))
        assert texts[0] == texts[1]


def test_a_file_is_written_atomically(tmp_path: Path):
    (tmp_path / "report.csv").mkdir()
    with pytest.raises(UserError, match=r"report\.csv"):
        write_report(tmp_path, two_methods(), ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.json"]


def test_names_that_are_not_valid_unicode_are_reported(tmp_path: Path):
    files = written(tmp_path, evaluation(result("net", 'caf\udce9, "x"\nü', share("auc_30", 0.5))))
    assert json.loads(files["report.json"])["results"][0]["clip"] == 'caf\udce9, "x"\nü'
    assert next(csv.DictReader(StringIO(files["clips.csv"], newline="")))["clip"] == 'caf\\udce9, "x"\nü'
    assert "caf\\udce9" in files["report.html"]


def test_an_evaluation_without_results_is_reported(tmp_path: Path):
    files = written(tmp_path, evaluation(unreadable=("a: gone",)))
    assert "Nothing could be measured" in files["report.html"]
    assert "1 of 1 clips have no readable truth" in files["report.html"]
    assert json.loads(files["report.json"])["results"] == []


# The page


class Page(HTMLParser):
    """Collect tags, table cells and text of a page, and check that all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
            if {"td", "th"} & set(self.open):
                self.cells[-1] += data


def page_of(folder: Path, of: Evaluation) -> tuple[Page, str]:
    text = written(folder, of)["report.html"]
    return Page(text), text


def test_the_page_contains_the_metrics_with_the_best_in_bold(tmp_path: Path):
    page, text = page_of(tmp_path, two_methods())
    short = text.split("<h2>Summary")[1].split("</section>")[0]
    assert re.findall("<b>(.*?)</b>", short) == ["0.600", "0.050"]
    assert "0.500 to 0.700" in short
    assert "abs_rel of colmap is over 1 of 2 clips, 1.0 % of the pixels" in short
    assert short.count("1 of 2 clips") == 2
    heads = re.findall("<th><span.*?</th>", short)
    assert [re.sub("<.*?>", " ", head).split() for head in heads] == [
        *(["auc_30", "share", "↑"], ["abs_rel", "ratio", "↓"], ["seconds", "s", "↓"]),
    ]
    failed = text.split("<h2>Failures")[1].split("</section>")[0]
    assert re.findall("<td>(.*?)</td>", failed) == ["2", "-", "-", "-", "-", "1", "1", "-"]
    assert "no initial pair" in failed
    metrics = text.split('id="metrics"')[1].split("</section>")[0]
    assert re.findall("<h3>(.*?)</h3>", metrics) == ["Cameras", "Depth", "Cost"]
    assert METRICS["seconds"].definition in metrics
    assert "1 with the worst value" in metrics
    assert "median scale" in metrics
    for text in ("Alignment.", "Failures count.", "Settings", "2 methods: net, colmap", "2 clips", "recon4d 0."):
        assert text in page.text


def test_ties_are_both_best_and_a_single_method_is_never_best(tmp_path: Path):
    same = [result(method, "a", share("auc_30", 0.5)) for method in ("one", "two")]
    assert written(tmp_path / "two", evaluation(*same))["report.html"].split("<h2>Failures")[0].count("<b>0.500") == 2
    assert "<b>0.500" not in written(tmp_path / "one", evaluation(same[0]))["report.html"]
    neither = [result(name, "a", Score("static_oracle_moving_epe", 1.0, 1, 1)) for name in ("one", "two")]
    assert "<b>1.000" not in written(tmp_path / "neither", evaluation(*neither))["report.html"]


def test_everything_dynamic_is_escaped_and_the_page_loads_no_files(tmp_path: Path):
    evil = "<script>alert('1')</script><img src=http://x.org/a.png>\"&amp;"
    score = undefined("abs_rel", 3, evil, evil)
    other = result("other", evil, share("auc_30", 0.5), score)
    object.__setattr__(other, "status", evil)  # a status that the constructor refuses
    of = evaluation(
        result(evil, evil, share("auc_30", 0.5), score, share("seconds", 1.0), status="partial", reason=evil),
        result("net", evil, share("auc_30", 0.5), score),
        other,
        unreadable=(evil,),
        name=evil,
        split=evil,
    )
    write_report(tmp_path, of, ((evil, evil),))
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(evil) > 10
    assert not [tag for tag, _ in page.tags if tag in ("img", "link", "iframe", "object")]
    for _, attributes in page.tags:
        assert set(attributes) <= {
            *("lang", "charset", "name", "content", "class", "id", "href", "title", "open", "scope", "width", "height"),
            *("x1", "x2", "y1", "y2", "x", "y", "cx", "cy", "r", "fill", "stroke", "stroke-width", "stroke-dasharray"),
            *("opacity", "viewbox", "role", "aria-label", "aria-hidden", "text-anchor", "points"),
        }
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in text
    assert "@import" not in text


def test_pictures_are_embedded_and_missing_ones_are_mentioned(tmp_path: Path):
    (tmp_path / "pictures" / "net").mkdir(parents=True)
    (tmp_path / "pictures" / "net" / "a.jpg").write_bytes(b"a picture")
    page, text = page_of(tmp_path, two_methods())
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources == [f"data:image/jpeg;base64,{base64.b64encode(b'a picture').decode()}"]
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == [
        "net on a: frames, depth, depth error and camera path"
    ]
    assert text.count("There is no picture.") == 3
    assert "are on this page" not in text
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "details" and "id" in attributes]
    assert ids == ["clip-0", "clip-1"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["#metrics", "#clip-0", "#clip-1"]


def test_names_of_pictures_are_escaped(tmp_path: Path):
    (tmp_path / "pictures" / 'net"<b>').mkdir(parents=True)
    (tmp_path / "pictures" / 'net"<b>' / "a.jpg").write_bytes(b"a picture")
    page, _ = page_of(tmp_path, evaluation(result('net"<b>', "a", share("auc_30", 0.5))))
    (alt,) = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alt == 'net"<b> on a: frames, depth, depth error and camera path'
    assert page.text.count('net"<b>') > 4


def test_the_number_of_embedded_pictures_is_limited(tmp_path: Path):
    count = MAX_PICTURES // 2 + 7
    results = [
        result(method, f"clip{i}", share("auc_30", (i * 37 % count) / count)) for method in "ab" for i in range(count)
    ]
    for one in results:
        path = tmp_path / "pictures" / one.method / f"{one.clip}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    text = written(tmp_path, evaluation(*results))["report.html"]
    assert text.count("<img ") == MAX_PICTURES
    assert f"Pictures of {MAX_PICTURES // 2} of {count} clips are on this page" in text
    assert text.count('<details class="clip"') == count


def test_the_worst_clips_come_first():
    def of(clip: str, auc: float, abs_rel: float) -> ClipResult:
        known = [share("auc_30", auc)] if not math.isnan(auc) else [undefined("auc_30", 0, "one frame")]
        known += [share("abs_rel", abs_rel)] if not math.isnan(abs_rel) else [undefined("abs_rel", 1, "failed")]
        return result("net", clip, *known)

    results = [
        *(of("good", 0.9, 0.1), of("bad depth", 0.5, 0.4), of("better depth", 0.5, 0.2), of("failed", 0.0, math.nan)),
        *(of("one frame", math.nan, 0.1), of("lost", 0.0, 3.0)),
        result("other", "good", share("auc_30", 0.0)),
    ]
    clips = [r.clip for r in results[:6]]
    assert worst_first(clips, results) == ["failed", "lost", "bad depth", "better depth", "good", "one frame"]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.integers(1, 9), st.randoms())
def test_pictured_clips_are_the_worst_and_a_uniform_selection_of_the_others(num_clips: int, num_methods: int, random):
    clips = [str(i) for i in range(num_clips)]
    worst = random.sample(clips, num_clips)
    chosen = select_pictured_clips(clips, worst, num_methods)
    count = MAX_PICTURES // num_methods
    assert len(chosen) == min(num_clips, count)
    assert set(worst[: count // 2]) <= chosen
    rest = [clip for clip in clips if clip not in worst[: count // 2]]
    places = [rest.index(clip) for clip in rest if clip in chosen]
    if len(chosen) == count and len(places) > 1:
        assert np.ptp(np.diff(places)) <= 1
        assert places[-1] + len(rest) / len(places) >= len(rest) - 1


# Figures


def drawing(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def corners(curve: ElementTree.Element) -> np.ndarray:
    return np.array([[float(n) for n in pair.split(",")] for pair in curve.attrib["points"].split()])


def test_a_curve_is_the_fraction_of_clips_and_ends_below_one_if_values_are_missing():
    values = [0.01, 1.0, 0.1, math.nan]
    scores = [share("abs_rel", v) if not math.isnan(v) else undefined("abs_rel", 1, "none") for v in values]
    results = [result("net", str(i), score) for i, score in enumerate(scores)]
    results += [result("other", "0", share("abs_rel", 0.1)), result("without", "0")]
    curve, other = drawing(cumulative_figure("abs_rel", results)).findall("polyline")
    x, y = corners(curve).T
    bottom, top = 230 - 42, 10
    assert (bottom - y) / (bottom - top) == pytest.approx([0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75], abs=1e-3)
    assert x[1::2][1:] - x[1::2][:-1] == pytest.approx([x[3] - x[1], x[3] - x[1], x[7] - x[5]], abs=0.11)
    assert (np.diff(x) >= 0).all()
    assert (x[0], x[-1]) == (46, 348)
    assert corners(other)[-1, 1] == top
    assert [curve.findtext("title"), other.findtext("title")] == ["net", "other"]


def test_a_curve_is_the_fraction_of_values_at_least_x_if_higher_is_better():
    results = [result("net", str(i), share("auc_30", v)) for i, v in enumerate((0.25, 1.0, 0.5, 0.5))]
    (curve,) = drawing(cumulative_figure("auc_30", results)).findall("polyline")
    x, y = corners(curve).T
    at = np.interp([0.2, 0.4, 0.6, 0.9], (x[::-1] - 46) / (348 - 46), (188 - y[::-1]) / 178)
    assert at == pytest.approx([1.0, 0.75, 0.25, 0.25], abs=1e-3)


def test_figures_without_values_are_empty():
    nothing = [result("net", "a", undefined("abs_rel", 1, "none"))]
    assert cumulative_figure("abs_rel", nothing) == cumulative_figure("epe", nothing) == seconds_figure(nothing) == ""
    assert interval_figure([summary("ate", math.nan)], ["net"]) == interval_figure([], []) == ""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1e8, allow_nan=False, allow_subnormal=False), min_size=1, max_size=6),
    st.sampled_from(["abs_rel", "auc_30"]),
)
def test_drawings_stay_inside_their_area_with_a_few_ticks(values: list[float], metric: str):
    results = [result("net", str(i), share(metric, v), share("seconds", v)) for i, v in enumerate(values)]
    for svg in (
        cumulative_figure(metric, results),
        seconds_figure(results),
        interval_figure([s for s in summarize(results) if s.metric.name == metric], ["net"]),
    ):
        figure = drawing(svg)
        width, height = (float(number) for number in figure.attrib["viewBox"].split()[2:])
        for element in figure.iter():
            for name in ("x1", "x2", "cx"):
                assert 0 <= float(element.attrib.get(name, 0)) <= width
            for name in ("y1", "y2", "cy"):
                assert 0 <= float(element.attrib.get(name, 0)) <= height
        labels = [text.text for text in figure.iter("text") if text.attrib.get("class") != "axis"]
        assert 1 <= len(labels) <= 14


def test_intervals_surround_their_values_and_colors_identify_methods():
    summaries = [summary("ate", 1.0, "a"), summary("ate", 3.0, "c", low=1.0, high=4.0)]
    figure = drawing(interval_figure(summaries, ["a", "b", "c"]))
    groups = figure.findall("g")
    assert [group.findtext("title") for group in groups] == ["a: 1.000 (0.900 to 1.100)", "c: 3.000 (1.000 to 4.000)"]
    lines = [group.find("line") for group in groups]
    dots = [group.find("circle") for group in groups]
    assert [dot.attrib["fill"] for dot in dots] == ["var(--c0)", "var(--c2)"]
    assert [dot.attrib["cy"] for dot in dots] == ["23", "75"]
    # Both share one scale: the interval of c starts at the value of a, and its value is at two thirds.
    assert lines[1].attrib["x1"] == dots[0].attrib["cx"]
    low, high = (float(lines[1].attrib[name]) for name in ("x1", "x2"))
    assert float(dots[1].attrib["cx"]) == pytest.approx(low + (high - low) * 2 / 3, abs=0.11)


def test_seconds_have_a_logarithmic_axis():
    results = [result("net", str(n), share("seconds", s), frames=n) for n, s in ((10, 0.1), (20, 1.0), (30, 10.0))]
    dots = drawing(seconds_figure(results)).findall("circle")
    x, y = (np.array([float(dot.attrib[name]) for dot in dots]) for name in ("cx", "cy"))
    assert np.diff(y) == pytest.approx([y[1] - y[0]] * 2, abs=0.11)
    assert np.diff(x) == pytest.approx([x[1] - x[0]] * 2, abs=0.11)
    assert y[0] > y[1] > y[2]
    one = drawing(seconds_figure(results[:1])).findall("text")
    assert {"9", "10", "11"} <= {text.text for text in one}
    assert "9.5" not in {text.text for text in one}
    assert x[0] < x[1] < x[2]


def test_many_methods_differ_by_dashes():
    swatches = [method_swatch(place) for place in range(70)]
    assert len(set(swatches[:24])) == 24
    assert "dash" not in swatches[7]
    assert "dash" in swatches[8]
    assert not any('dasharray="0' in swatch for swatch in swatches)


# Pictures

ROW, HEAD, GAP = 163, 26, 6
"""Height of a panel of a 12 x 16 clip with a width of 217, height of the titles, and gap, in pixels."""


def flat(num_frames: int = 3) -> Sample:
    return Sample(walls.make_clip(num_frames), walls.make_scene(num_frames))


def picture(path: Path, sample: Sample, prediction: Prediction) -> np.ndarray:
    write_clip_picture(path, sample, prediction)
    return np.asarray(Image.open(path)).astype(int)


def at(image: np.ndarray, column: int, row: int, x: float, y: float) -> np.ndarray:
    """Return the color at a fraction of a panel's width and height."""
    left, top = GAP + column * 223, HEAD + row * (ROW + GAP)
    return image[top + int(y * ROW), left + int(x * 217)]


def color(color_map: str, value: float) -> np.ndarray:
    return np.array(colormaps[color_map](value, bytes=True)[:3]).astype(int)


def predicted(scene) -> Prediction:
    return Prediction.from_scene(scene, 1.0)


def test_errors_are_colored_after_one_scale(tmp_path: Path):
    sample = flat()
    depths = 5 * sample.scene.depths
    depths[:, :, 10:13] *= 1.15
    depths[:, :, 13:] *= 9
    confidence = torch.ones_like(depths)
    confidence[:, :3] = 0
    image = picture(
        tmp_path / "a.jpg", sample, predicted(replace(sample.scene, depths=depths, depth_confidence=confidence))
    )
    assert image.shape == (HEAD + 3 * (ROW + GAP) + 250, WIDTH, 3)
    for row in range(3):
        for x, error in ((0.3, 0.0), (11.5 / 16, 0.5), (0.95, 1.0)):
            assert at(image, 3, row, x, 0.7) == pytest.approx(color("viridis", error), abs=12)
        assert at(image, 3, row, 0.5, 0.1) == pytest.approx(168, abs=6)
        assert at(image, 2, row, 0.5, 0.1) == pytest.approx(0, abs=6)
        assert at(image, 0, row, 0.2, 0.5) == pytest.approx(walls.LEFT_COLOR, abs=12)
        assert at(image, 0, row, 0.8, 0.5) == pytest.approx(walls.RIGHT_COLOR, abs=12)
        # Where the prediction is correct up to scale, it has the colors of the truth.
        assert at(image, 2, row, 0.3, 0.7) == pytest.approx(at(image, 1, row, 0.3, 0.7), abs=6)
        assert at(image, 2, row, 0.95, 0.7).sum() < at(image, 1, row, 0.95, 0.7).sum() - 60


def test_near_is_bright(tmp_path: Path):
    sample = flat()
    sample.scene.depths[:] = torch.linspace(1, 4, 16)
    image = picture(tmp_path / "a.jpg", sample, predicted(sample.scene))
    for column in (1, 2):
        along = [at(image, column, 1, x, 0.5).sum() for x in (0.05, 0.3, 0.6, 0.95)]
        assert (np.diff(along) < -15).all()
        assert along[-1] > 30


def test_the_frames_are_the_first_the_middle_and_the_last(tmp_path: Path):
    sample = flat(8)
    for frame in (0, 4, 7):
        sample.clip.images[frame] = 10 + 30 * frame
    sample.clip.images[[1, 2, 3, 5, 6]] = 255
    image = picture(tmp_path / "a.jpg", sample, predicted(sample.scene))
    assert [int(at(image, 0, row, 0.5, 0.5)[0]) for row in range(3)] == pytest.approx([10, 130, 220], abs=4)
    assert picture(tmp_path / "b.jpg", flat(1), predicted(flat(1).scene)).shape[0] == HEAD + (ROW + GAP) + 250
    assert picture(tmp_path / "c.jpg", flat(2), predicted(flat(2).scene)).shape[0] == HEAD + 2 * (ROW + GAP) + 250


def test_sparse_depth_is_drawn_as_dots(tmp_path: Path):
    sample = flat()
    confidence = torch.zeros_like(sample.scene.depths)
    confidence[:, 3, 4] = confidence[:, 9, 12] = 1
    scene = replace(sample.scene, depth_confidence=confidence, depths=torch.where(confidence > 0, 3.0, torch.nan))
    image = picture(tmp_path / "a.jpg", sample, predicted(scene))
    panel = image[HEAD : HEAD + ROW, GAP + 2 * 223 : GAP + 2 * 223 + 217]
    lit = np.argwhere(panel.max(axis=-1) > 60)
    assert 10 <= len(lit) <= 60
    for y, x in ((3.5 * ROW / 12, 4.5 * 217 / 16), (9.5 * ROW / 12, 12.5 * 217 / 16)):
        near = lit[np.abs(lit - (y, x)).max(axis=1) <= 5]
        assert near.mean(axis=0) == pytest.approx((y, x), abs=1.5)
    # Both are correct after scaling, and the rest is unknown.
    assert at(image, 3, 0, 4.5 / 16, 3.5 / 12) == pytest.approx(color("viridis", 0.0), abs=45)
    assert at(image, 3, 0, 0.8, 0.2) == pytest.approx(168, abs=6)


def test_the_nearer_of_two_overlapping_dots_is_on_top(tmp_path: Path):
    sample = Sample(walls.make_clip(1, 1200, 1600), walls.make_scene(1).resized(1200, 1600))
    sample.scene.depths[:] = torch.linspace(2, 9, 1600)
    confidence = torch.zeros_like(sample.scene.depths)
    confidence[:, 600, 800:804] = 1
    confidence[:, 100, 100] = 1
    depths = sample.scene.depths.clone()
    depths[:, 600, 801] = 2.0
    scene = replace(sample.scene, depths=depths, depth_confidence=confidence)
    image = picture(tmp_path / "a.jpg", sample, predicted(scene))
    assert at(image, 2, 0, 0.502, 0.502).sum() > at(image, 1, 0, 0.502, 0.502).sum() + 60


def test_one_wrong_pixel_does_not_color_its_neighbors(tmp_path: Path):
    sample = Sample(walls.make_clip(1, 600, 800), walls.make_scene(1).resized(600, 800))
    depths = sample.scene.depths.clone()
    depths[:, ::6, ::6] *= 1000
    image = picture(tmp_path / "a.jpg", sample, predicted(replace(sample.scene, depths=depths)))
    assert at(image, 3, 0, 0.5, 0.5) == pytest.approx(color("viridis", 1 / 36), abs=30)


def test_the_scale_is_fitted_to_the_clip_and_not_to_the_drawn_frames(tmp_path: Path):
    sample = flat(9)
    depths = sample.scene.depths.clone()
    depths[[0, 4, 8]] *= 1.15
    image = picture(tmp_path / "a.jpg", sample, predicted(replace(sample.scene, depths=depths)))
    for row in range(3):
        assert at(image, 3, row, 0.5, 0.5) == pytest.approx(color("viridis", 0.5), abs=12)


def test_a_prediction_of_another_size_is_resized_to_the_truth(tmp_path: Path):
    sample = Sample(make_clip(), make_scene())
    same = picture(tmp_path / "same.jpg", sample, predicted(sample.scene))
    larger = picture(tmp_path / "larger.jpg", sample, predicted(sample.scene.resized(24, 32)))
    assert np.abs(same - larger).mean() < 2


@pytest.mark.parametrize("how", ["failed", "frames", "infinite"])
def test_the_reason_is_drawn_beside_the_truth_if_there_is_no_suitable_prediction(tmp_path: Path, how: str):
    sample = flat()
    wrong = sample.scene.depths.clone()
    wrong[1, 2, 3] = math.nan
    prediction = {
        # A dollar sign is not a formula, and a long reason does not overflow.
        "failed": Prediction(None, "failed", 1.0, "no $initial_{ pair \\frac " * 60),
        "frames": predicted(walls.make_scene(4)),
        "infinite": predicted(replace(sample.scene, depths=wrong)),
    }[how]
    image = picture(tmp_path / "a.jpg", sample, prediction)
    whole = picture(tmp_path / "b.jpg", sample, predicted(sample.scene))
    panels, middle = slice(HEAD, HEAD + 3 * (ROW + GAP)), GAP + 2 * 223
    assert np.abs(image[panels, :middle] - whole[panels, :middle]).mean() < 3
    text = image[panels, middle + 20 :]
    assert (text > 240).mean() > 0.8
    is_red = (text[..., 0] > text[..., 1] + 40) & (text[..., 0] > text[..., 2] + 40)
    assert is_red.sum() > 200
    assert (image[panels, -3:] > 240).all()


def test_truth_without_depth_has_no_panels(tmp_path: Path):
    sample = flat()
    truth = replace(sample.scene, depth_confidence=torch.zeros_like(sample.scene.depths))
    blind = replace(sample, scene=truth)
    scene = replace(sample.scene, depths=sample.scene.depths * torch.linspace(1, 2, 16))
    image = picture(tmp_path / "a.jpg", blind, predicted(scene))
    panels = slice(HEAD, HEAD + 3 * (ROW + GAP))
    # The colors cover the range of the prediction, and there is no error column.
    assert at(image, 1, 0, 0.05, 0.5).sum() > at(image, 1, 0, 0.95, 0.5).sum() + 200
    assert (image[panels, GAP + 2 * 223 + 4 :] > 240).all()
    failed = picture(tmp_path / "b.jpg", blind, Prediction(None, "timed out", 1.0, "more than 600 s"))
    assert failed.shape == image.shape


def test_unknown_predictions_are_drawn_as_unknown(tmp_path: Path):
    sample = flat()
    nothing = replace(
        sample.scene,
        depth_confidence=torch.zeros_like(sample.scene.depths),
        cameras=replace(sample.scene.cameras, world_from_cam=torch.full((3, 4, 4), torch.nan)),
    )
    image = picture(tmp_path / "a.jpg", sample, predicted(nothing))
    assert at(image, 2, 1, 0.5, 0.5) == pytest.approx(0, abs=6)
    assert at(image, 3, 1, 0.5, 0.5) == pytest.approx(168, abs=6)


def test_depth_behind_the_camera_is_unknown(tmp_path: Path):
    sample = flat()
    depths = sample.scene.depths.clone()
    depths[:, :, :8] = -1.0
    image = picture(tmp_path / "a.jpg", sample, predicted(replace(sample.scene, depths=depths)))
    assert at(image, 2, 1, 0.2, 0.5) == pytest.approx(0, abs=6)
    assert at(image, 3, 1, 0.2, 0.5) == pytest.approx(168, abs=6)
    assert at(image, 3, 1, 0.8, 0.5) == pytest.approx(color("viridis", 0.0), abs=12)


def test_portraits_fit_and_pictures_are_small(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    tall = Sample(walls.make_clip(3, 160, 90), walls.make_scene(3).resized(160, 90))
    image = picture(tmp_path / "new" / "folder" / "a.jpg", tall, predicted(tall.scene))
    assert image.shape == (HEAD + 3 * (230 + GAP) + 250, WIDTH, 3)
    wide = Sample(make_clip(3, 15, 20), walls.make_scene(3).resized(15, 20))
    wide.scene.depths[:] = 2 + 0.2 * torch.rand(3, 15, 20, generator=generator)
    picture(tmp_path / "b.jpg", wide, predicted(wide.scene))
    assert 0.6 * MAX_BYTES < (tmp_path / "b.jpg").stat().st_size <= MAX_BYTES
    assert (tmp_path / "new" / "folder" / "a.jpg").stat().st_size < MAX_BYTES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.jpg", "new"]


def test_a_picture_is_written_atomically(tmp_path: Path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(UserError, match=r"a\.jpg"):
        write_clip_picture(tmp_path / "a.jpg", flat(), predicted(flat().scene))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_the_same_clip_gives_the_same_picture(tmp_path: Path):
    for name in ("a.jpg", "b.jpg"):
        write_clip_picture(tmp_path / name, flat(), predicted(flat().scene))
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_paths_agree_after_a_similarity_and_unregistered_frames_are_unknown():
    truth = make_scene(6, metres_per_unit=2.0)
    turn = rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.2]))
    moved = truth.transformed(similarity(torch.tensor(3.0), turn, torch.tensor([1.0, 2.0, -5.0])))
    lost = moved.cameras.world_from_cam.clone()
    lost[2] = math.nan
    moved = replace(moved, cameras=replace(moved.cameras, world_from_cam=lost))
    true, predicted = aligned_camera_centers(truth, moved)
    assert torch.equal(true, truth.cameras.centers.double())
    placed = torch.tensor([0, 1, 3, 4, 5])
    assert torch.allclose(predicted[placed], true[placed], atol=1e-5)
    assert predicted[2].isnan().all()
    assert aligned_camera_centers(truth, None)[1].isnan().all()
    lost[:] = math.nan
    assert aligned_camera_centers(truth, moved)[1].isnan().all()


def lines_of(sample: Sample, scene) -> list[dict[str, tuple[np.ndarray, str]]]:
    """Return positions and line style of each drawn path by its label, for both views."""
    figure = Figure(figsize=(9, 6))
    draw_paths(figure, sample, scene, 0.4)
    return [
        {str(line.get_label()): (line.get_xydata(), line.get_linestyle()) for line in axes.lines}
        for axes in figure.axes
    ]


def test_paths_are_drawn_in_meters_with_crosses_for_missing_frames():
    sample = Sample(make_clip(6), make_scene(6, metres_per_unit=2.0))
    world_from_cam = sample.scene.cameras.world_from_cam.clone()
    world_from_cam[[0, 4]] = math.nan
    scene = replace(sample.scene, cameras=replace(sample.scene.cameras, world_from_cam=world_from_cam))
    above, side = lines_of(sample, scene)
    centers = 2 * sample.scene.cameras.centers.numpy()
    assert above["true"][0] == pytest.approx(centers[:, [0, 2]])
    assert side["true"][0] == pytest.approx(centers[:, [2, 1]])
    assert above["not registered (2 of 6)"][0] == pytest.approx(centers[[0, 4]][:, [0, 2]])
    assert above["predicted, aligned"][0][[1, 2, 3, 5]] == pytest.approx(centers[[1, 2, 3, 5]][:, [0, 2]], abs=1e-5)
    assert np.isnan(above["predicted, aligned"][0][[0, 4]]).all()
    assert above["first frame"][0] == pytest.approx(centers[:1, [0, 2]])
    assert above["true"][1] == "-"
    assert not [label for label in lines_of(sample, sample.scene)[0] if label.startswith("not registered")]
    failed = lines_of(sample, None)[0]
    assert "true" in failed
    assert not [label for label in failed if label.startswith(("predicted", "not registered"))]


def test_paths_are_in_the_order_of_time_and_photos_are_not_connected():
    sample = Sample(make_clip(4), make_scene(4))
    shuffled = replace(sample, clip=replace(sample.clip, times=torch.tensor([0.2, 0.0, 0.3, 0.1])))
    centers = sample.scene.cameras.centers.numpy()
    above = lines_of(shuffled, sample.scene)[0]
    assert above["true"][0] == pytest.approx(centers[[1, 3, 0, 2]][:, [0, 2]])
    assert above["first frame"][0] == pytest.approx(centers[:1, [0, 2]])
    photos = replace(sample, clip=replace(sample.clip, times=torch.full((4,), math.nan)))
    above = lines_of(photos, sample.scene)[0]
    assert above["true"][1] == "None"
    assert above["true"][0] == pytest.approx(centers[:, [0, 2]])


def test_both_views_share_one_scale_and_the_side_view_is_upright():
    sample = Sample(make_clip(6), make_scene(6))
    figure = Figure(figsize=(9, 6))
    draw_paths(figure, sample, sample.scene, 0.4)
    above, side = figure.axes
    # The world's y axis points down, and so does that of the side view.
    assert (above.yaxis_inverted(), side.yaxis_inverted()) == (False, True)
    for axes in (above, side):
        low, high = np.sort([axes.get_xlim(), axes.get_ylim()], axis=1).T
        for line in axes.lines:
            assert ((line.get_xydata() >= low) & (line.get_xydata() <= high)).all()
        assert high - low == pytest.approx(1.15 * np.ptp(sample.scene.cameras.centers.numpy(), axis=0).max(), rel=1e-4)
    static = replace(sample.scene.cameras, world_from_cam=torch.eye(4).expand(6, 4, 4))
    without_motion = replace(sample, scene=replace(sample.scene, cameras=static))
    figure = Figure(figsize=(9, 6))
    draw_paths(figure, without_motion, None, 0.4)
    assert figure.axes[0].get_xlim() == (-0.5, 0.5)
