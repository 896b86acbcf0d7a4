"""The training log: resumed runs repeat no steps, skipped sequences are named, and memory has the right unit."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from training_run import config

from recon4d.datasets.mixture import SkippedSequence
from recon4d.train import progress
from recon4d.train.checkpoints import list_checkpoints
from recon4d.train.loop import train
from recon4d.train.progress import Progress, drop_later_lines, peak_memory


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.end_to_end
def test_a_resumed_run_repeats_no_steps_in_the_log(tmp_path: Path) -> None:
    training = replace(config(1, steps=4), save_every=2, log_every=1, validate_every=9, keep=4)
    train(training, tmp_path)
    steps = [line["step"] for line in read_log(tmp_path)]
    assert steps == [1, 2, 3, 4, 4]
    train(training, tmp_path, list_checkpoints(tmp_path / "checkpoints")[0])
    assert [line["step"] for line in read_log(tmp_path)] == steps
    train(training, tmp_path)
    assert [line["step"] for line in read_log(tmp_path)] == steps


def test_later_and_incomplete_lines_are_dropped(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    kept = '{"step": 5, "loss": 1.0}\n{"step": 10, "loss": NaN}\n{"step": 10, "validation_loss": 2.0}\n'
    log.write_text(kept + '{"step": 15, "loss": 0.5}\n{"step": 1')
    drop_later_lines(log, 10)
    assert log.read_text() == kept
    drop_later_lines(log, 10)
    assert log.read_text() == kept
    drop_later_lines(tmp_path / "none.jsonl", 10)
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl"}


def test_dropping_lines_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies while it writes leaves the old log."""
    log = tmp_path / "log.jsonl"
    content = '{"step": 5}\n{"step": 15}\n'
    log.write_text(content)

    def die(path: Path, data: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", die)
    with pytest.raises(KeyboardInterrupt):
        drop_later_lines(log, 5)
    assert log.read_text() == content


def make_progress(folder: Path) -> Progress:
    accelerator = SimpleNamespace(is_main_process=True, num_processes=1)
    return Progress(config(), folder, accelerator, 0)  # type: ignore[arg-type]


def test_skipped_sequences_are_logged_once_and_listed_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = make_progress(tmp_path)
    log.log_skipped(5, [SkippedSequence("po/a", 1, "damaged")])
    log.log_skipped(10, [SkippedSequence("po/a", 3, "damaged")])
    log.log_skipped(15, [SkippedSequence("po/a", 4, "damaged"), SkippedSequence("po/b", 1, "too short")])
    log.close(20, [SkippedSequence("po/a", 5, "damaged"), SkippedSequence("po/b", 1, "too short")])
    assert read_log(tmp_path) == [
        {"step": 5, "skipped_sequences": {"po/a": "damaged"}},
        {"step": 15, "skipped_sequences": {"po/b": "too short"}},
    ]
    assert capsys.readouterr().err.splitlines() == [
        "step 5: po/a is skipped: damaged",
        "step 15: po/b is skipped: too short",
        "po/a was skipped 5 times: damaged",
        "po/b was skipped once: too short",
    ]


@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 1)])
def test_peak_memory_is_in_gib_on_every_platform(monkeypatch: pytest.MonkeyPatch, platform: str, unit: int) -> None:
    usage = SimpleNamespace(ru_maxrss=3 * 2**30 // unit)
    monkeypatch.setitem(sys.modules, "resource", SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: usage))
    monkeypatch.setattr(progress.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory() == 3


def test_peak_memory_is_unknown_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(progress.torch.cuda, "is_available", lambda: False)
    assert peak_memory() != peak_memory()
