"""The page contains metrics, failures, coverage and pictures, and everything is escaped."""

import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

from reports import evaluation, result, share, two_methods, written

from recon4d.eval.metrics.score import Score, undefined
from recon4d.eval.report.clips import MAX_PICTURES, worst_first
from recon4d.eval.report.files import write_report
from recon4d.eval.runner import Evaluation
from recon4d.eval.scoring import METRICS, ClipResult


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
        *(["auc_30", "share", "↑"], ["abs_rel", "ratio", "↓"], ["seconds", "s", "↓"])
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
            *("opacity", "viewbox", "role", "aria-label", "aria-hidden", "style", "d"),
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
