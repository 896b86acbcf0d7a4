"""Files of a report are complete, strict and deterministic."""

import csv
import json
import math
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import evaluation, result, share, two_methods, written

from recon4d.errors import UserError
from recon4d.eval.metrics.score import Score
from recon4d.eval.report.clips import MAX_PICTURES, select_pictured_clips
from recon4d.eval.report.files import write_report
from recon4d.eval.report.summary import summarize
from recon4d.eval.scoring import METRICS


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
        *("ratio", "median scale", "2", "2", "0", "400", "400")
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


@settings(max_examples=20, deadline=None)
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
