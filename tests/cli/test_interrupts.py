"""Ctrl-C: every command prints what is left on disk, and the same command continues if it can."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import tyro
import walls
from commands import run

import recon4d.inference
from recon4d.cli import adapt, calibrate, reconstruct_pipeline
from recon4d.datasets import synthetic
from recon4d.eval import runner
from recon4d.io import save_scene
from recon4d.io.exporters import formats

DOG = Path(__file__).parents[2] / "examples" / "dog.mp4"
WINDOWS = (
    *("reconstruct", DOG, "--model", "recon4d_tiny", "--fps", 2, "--processing-size", 64),
    *("--refine", "off", "--window", 3),
)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def interrupt_from(call: int, function: Callable) -> Callable:
    """Return a function that works as the given one and raises KeyboardInterrupt from its `call`-th call on."""
    calls = 0

    def counted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        return interrupt() if calls >= call else function(*arguments, **options)

    return counted


def interrupted_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that is interrupted; return the line that it prints."""
    capsys.readouterr()
    assert run(*arguments) == 130
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert line.startswith("recon4d: interrupted")
    return line


def test_a_single_pass_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(reconstruct_pipeline, "find_model", interrupt)
    line = interrupted_line(capsys, "reconstruct", DOG, "--num-frames", 2, "--out", tmp_path / "out")
    assert line == "recon4d: interrupted, nothing was written"
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::recon4d.zoo.UntrainedWarning")
def test_windows_stay_and_the_same_command_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out, reconstruct = tmp_path / "out", recon4d.inference.predict_scene
    with monkeypatch.context() as patch:
        patch.setattr(recon4d.inference, "predict_scene", interrupt_from(2, reconstruct))
        line = interrupted_line(capsys, *WINDOWS, "--overlap", 1, "--out", out)
    assert line == f"recon4d: interrupted; finished windows stay in {out}, and the same command continues from there"
    windows: list[int] = []
    monkeypatch.setattr(recon4d.inference, "predict_scene", lambda *given: (windows.append(1), reconstruct(*given))[1])
    assert run(*WINDOWS, "--overlap", 1, "--out", out) == 0
    # Six frames are two and a half windows of three that share one; the first one is not repeated.
    assert len(windows) == 2
    assert (out / "index.npz").is_file()


def test_an_export_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    save_scene(tmp_path / "scene.npz", walls.make_scene(), torch.arange(3.0), walls.make_info())
    monkeypatch.setitem(formats.FORMATS, "tum", interrupt)
    line = interrupted_line(capsys, "export", tmp_path / "scene.npz", "--to", "tum", "--out", tmp_path / "out")
    assert line == "recon4d: interrupted, nothing was written"
    assert [path.name for path in tmp_path.iterdir()] == ["scene.npz"]


def test_an_adaptation_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(adapt, "find_model", interrupt)
    line = interrupted_line(capsys, "adapt", DOG, "--num-frames", 3, "--out", tmp_path / "out")
    assert line == "recon4d: interrupted, nothing was written"
    assert not list(tmp_path.iterdir())


def test_a_calibration_writes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(calibrate, "find_model", interrupt)
    line = interrupted_line(capsys, "calibrate", "recon4d_tiny", "--out", tmp_path / "tiny.safetensors")
    assert line == "recon4d: interrupted, no checkpoint was written"
    assert not list(tmp_path.iterdir())


def test_an_incomplete_data_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    options = ("--clips", 2, "--num-frames", 2, "--size", 32, 48, "--tracks", 8)
    monkeypatch.setattr(synthetic, "make_scenes", interrupt_from(2, synthetic.make_scenes))
    line = interrupted_line(capsys, "render", "--out", tmp_path / "set", *options)
    assert f"{tmp_path / 'set'} holds an incomplete data set" in line
    assert list((tmp_path / "set").iterdir())
    line = interrupted_line(capsys, "render", "--out", tmp_path / "other", *options)
    assert line == "recon4d: interrupted, nothing was written"
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("small_benchmark")
def test_an_evaluation_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out = tmp_path / "out"
    command = ("evaluate", "--method", "static", "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "score_prediction", interrupt_from(2, runner.score_prediction))
        line = interrupted_line(capsys, *command)
    assert (
        line == f"recon4d: interrupted; finished predictions stay in {out}, and the same command continues from there"
    )
    assert len(list((out / "scores").rglob("*.json"))) == 1
    assert not (out / "report.json").exists()
    assert run(*command) == 0
    assert (out / "report.json").is_file()


def test_a_training_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("recon4d.train.loop.train", interrupt)
    line = interrupted_line(capsys, "train", "--out", tmp_path / "run")
    assert line.endswith(
        f"checkpoints stay in {tmp_path / 'run'}, continue with: recon4d train --resume {tmp_path / 'run'}"
    )
    monkeypatch.setattr("recon4d.train.run_folder.begin_run", interrupt)
    line = interrupted_line(capsys, "train", "--out", tmp_path / "other")
    assert line == "recon4d: interrupted, nothing was written"


def test_parsing_can_be_interrupted(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(tyro, "cli", interrupt)
    assert interrupted_line(capsys, "models") == "recon4d: interrupted"
