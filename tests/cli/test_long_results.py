"""`recon4d info` and other readers of results take a long clip frame by frame, in bounded memory."""

import shutil
from pathlib import Path

import pytest
import torch
import walls
from commands import run
from long_folders import count_loaded_frames, write_long_scene
from recordings import read_recording

from recon4d.cli import main, view
from recon4d.io import long_archive as archive
from recon4d.io import save_scene
from recon4d.records import ClipSource
from recon4d.viewer.layout import DEPTH

NUM_FRAMES = 8
MAX_FRAMES_IN_MEMORY = 3
"""Frames that a command may hold at once: far fewer than the clip has."""


@pytest.fixture
def long_results(tmp_path: Path) -> Path:
    """Write the wall as a long clip, and as a single scene next to it."""
    folder = tmp_path / "long"
    scene, times = walls.make_scene(NUM_FRAMES), torch.arange(NUM_FRAMES) / 10
    images = walls.make_clip(NUM_FRAMES).images
    numbers = tuple(range(NUM_FRAMES))
    source = ClipSource("wall.mp4", tuple(f"wall_{number:06d}" for number in numbers), numbers)
    info = walls.make_info(source=source, original_size=(walls.HEIGHT, walls.WIDTH))
    write_long_scene(folder, scene, times, info, images)
    short = tmp_path / "short"
    (short / "frames").mkdir(parents=True)
    save_scene(short / "scene.npz", scene, times, info)
    for number, name in enumerate(source.names):
        shutil.copy(archive.image_file(folder, number), short / "frames" / f"{name}.jpg")
    return folder


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_loaded_frames(monkeypatch)


def test_info_prints_the_same_as_for_a_single_scene(
    long_results: Path, loaded: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("info", long_results) == 0
    printed = capsys.readouterr().out
    assert len(loaded) == NUM_FRAMES
    assert max(loaded) <= MAX_FRAMES_IN_MEMORY
    assert run("info", long_results.parent / "short") == 0
    assert capsys.readouterr().out == printed


def test_view_shows_as_many_frames_as_memory_allows(
    long_results: Path,
    loaded: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rerun", reason="rerun comes with the extra `view`")
    file = tmp_path / "wall.rrd"
    monkeypatch.setattr(view, "MAX_PIXELS", MAX_FRAMES_IN_MEMORY * walls.HEIGHT * walls.WIDTH)
    assert run("view", long_results, "--save", file) == 0
    assert f"showing 3 of {NUM_FRAMES} frames, one in 3" in capsys.readouterr().out
    assert len(loaded) == 3
    depths = read_recording(file)[DEPTH]
    assert [row.frame for row in depths] == [0, 1, 2]
    assert [row.seconds for row in depths] == pytest.approx([0.0, 0.3, 0.6])
    monkeypatch.undo()
    assert run("view", long_results, "--save", file, "--overwrite") == 0
    assert "showing" not in capsys.readouterr().out
    assert len(read_recording(file)[DEPTH]) == NUM_FRAMES


@pytest.mark.parametrize(
    "command", [["info"], ["export", "--to", "ply", "--out", "exported"], ["view", "--save", "a.rrd"]]
)
def test_a_run_that_has_not_ended_is_told(
    long_results: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was stopped has frames and a work folder, but no index."""
    if command[0] == "view":
        pytest.importorskip("rerun", reason="rerun comes with the extra `view`")
    monkeypatch.chdir(long_results.parent)
    (long_results / archive.INDEX_FILE_NAME).unlink()
    (long_results / "windows").mkdir()
    (long_results / "windows" / "run.json").write_text("{}")
    assert main([command[0], "long", *command[1:]]) == 2
    told = "recon4d: long: its run has not ended (8 frames are written so far); the reconstruct command that began it"
    assert capsys.readouterr().err.startswith(told)
