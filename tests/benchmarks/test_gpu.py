"""The benchmark of GPUs reads what its sections print, and outlives sections that fail or hang."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Arguments, Section, parse_inference, parse_tests, parse_training, run_section, sections

INFERENCE = """frames  mode          seconds  ratio  planned GiB  peak GiB  TFLOP/s  attention  output differs by
    50  lean            0.795   1.00         4.60      4.80  123.456       85 %         0.00e+00
     3  compiled        0.500   2.00         1.00         -    1.500        5 %         0.00e+00
"""
TRAINING = """recon4d_small on cuda: 4 clips of 8x192x256
batches     12.00 clips a second
step        20.50 clips a second
both         7.57 clips a second
step        1.234 TFLOP/s, 0.060 TFLOP a clip, 0.1 % of 989
memory       3.21 GiB of activations and gradients at the most
in all       5.43 GiB at the most
"""


def test_rows_of_inference_stand_beside_the_reference() -> None:
    known, unknown = parse_inference(INFERENCE)
    assert (known["frames"], known["mode"], known["seconds"]) == (50, "lean", 0.795)
    assert (known["planned GiB"], known["peak GiB"], known["TFLOP/s"], known["attention %"]) == (4.6, 4.8, 123.456, 85)
    assert (known["reference code s"], known["reference code GiB"]) == (0.928, 14.9)
    assert (known["prototype s"], known["prototype GiB"]) == (0.795, 4.8)
    assert unknown["peak GiB"] is None
    assert unknown["reference code s"] is None
    assert list(known) == list(unknown)


def test_rows_of_training() -> None:
    rows = parse_training(TRAINING)
    assert [(row["what"], row["value"]) for row in rows] == [
        ("batches", 12.0),
        ("step", 20.5),
        ("both", 7.57),
        ("step", 1.234),
        ("memory", 3.21),
        ("in all", 5.43),
    ]
    assert rows[3]["unit"] == "TFLOP/s, 0.060 TFLOP a clip, 0.1 % of 989"


def test_counts_of_tests() -> None:
    printed = "2 failed, 3 passed, 1 skipped, 40 deselected in 3.21s"
    assert parse_tests(printed) == [
        {"tests": "failed", "number": 2},
        {"tests": "passed", "number": 3},
        {"tests": "skipped", "number": 1},
    ]


def python(name: str, code: str, limit: float = 60.0) -> Section:
    return Section(name, ["-c", code], limit, parse_training)


@pytest.mark.end_to_end
def test_a_section_that_fails_or_hangs_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = f"print({TRAINING!r}, flush=True)"
    parts = [
        python("broken", "raise ValueError('no kernel image')"),
        python("endless", code + "; import time; time.sleep(600)", limit=15.0),
        python("silent", "pass"),
        python("good", code),
    ]
    monkeypatch.setattr(gpu, "sections", lambda dry_run: parts)
    assert gpu.main(Arguments(tmp_path / "gpu", dry_run=True)) == 1
    content = json.loads((tmp_path / "gpu" / "gpu.json").read_text())
    results = content["sections"]
    assert [one["status"] for one in results] == ["failed", "too slow", "failed", "ok"]
    assert "no kernel image" in results[0]["tail"][-1]
    assert len(results[1]["rows"]) == len(results[3]["rows"]) == 6
    page = (tmp_path / "gpu" / "gpu.md").read_text()
    assert "ValueError: no kernel image" in page
    assert "| both | 7.57 | clips a second |" in page
    assert "endless: too slow" in capsys.readouterr().out


def test_no_section_starts_without_time() -> None:
    assert run_section(python("late", "pass"), 0.5).status == "not started"


def test_all_sections_fit_into_eight_minutes() -> None:
    assert sum(section.limit for section in sections(dry_run=False)) <= gpu.TOTAL_SECONDS < 480
    assert [section.name for section in sections(True)] == [
        "tests",
        "inference, lean",
        "inference, thinned",
        "training",
    ]


@pytest.mark.parametrize("section", sections(dry_run=True), ids=lambda section: section.name)
def test_options_of_the_commands_exist(section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands are run by ``python -m benchmarks.gpu --dry-run``, in CI; here their options are parsed."""
    if section.name == "tests":
        return
    import importlib

    import tyro

    module = importlib.import_module(section.command[1])
    for is_dry in (True, False):
        (command,) = [one.command for one in sections(is_dry) if one.name == section.name]
        tyro.cli(module.Arguments, args=command[2:])


def test_a_machine_without_gpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main(Arguments(tmp_path / "gpu")) == 2
    assert not (tmp_path / "gpu").exists()
