"""Evaluations with few results, for tests of reports."""

from dataclasses import replace
from pathlib import Path

from recon4d.datasets import Sample
from recon4d.eval.benchmarks import Benchmark
from recon4d.eval.metrics.score import Score, undefined
from recon4d.eval.report.files import write_report
from recon4d.eval.report.summary import Summary
from recon4d.eval.runner import Evaluation
from recon4d.eval.scoring import METRICS, ClipResult


def result(method: str, clip: str, *scores: Score, status: str = "ok", reason: str = "", frames: int = 8) -> ClipResult:
    return ClipResult(method, clip, frames, status, reason, scores)  # pyright: ignore[reportArgumentType]


def share(metric: str, value: float, note: str = "") -> Score:
    return Score(metric, value, 0 if note else 10, 10, "none", note)


def summary(metric: str, value: float = 0.5, method: str = "net", **changes) -> Summary:
    whole = Summary(method, METRICS[metric], value, value - 0.1, value + 0.1, 64, 64, 0, 100, 100, "none")
    return replace(whole, **changes)


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
