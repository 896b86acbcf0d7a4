"""`recon4d info` and other readers of results take a long clip frame by frame, in bounded memory."""

import shutil
import weakref
from pathlib import Path

import pytest
import torch
import walls
from commands import run
from recordings import read_recording

from recon4d.cli import main, view
from recon4d.io import long_archive as archive
from recon4d.io import save_scene
from recon4d.records import ClipSource
from recon4d.viewer.layout import DEPTH

NUM_FRAMES = 12
MAX_FRAMES_IN_MEMORY = 3
"""Frames that a command may hold at once: far fewer than the clip has."""


@pytest.fixture
def long_results(tmp_path: Path) -> Path:
    """Write the wall as a long clip of twelve frames, and as a single scene next to it."""
    folder = tmp_path / "long"
    scene, times = walls.make_scene(NUM_FRAMES), torch.arange(NUM_FRAMES) / 10
    images = walls.make_clip(NUM_FRAMES).images
    numbers = tuple(range(NUM_FRAMES))
    source = ClipSource("wall.mp4", tuple(f"wall_{number:06d}" for number in numbers), numbers)
    info = walls.make_info(source=source, original_size=(walls.HEIGHT, walls.WIDTH))
    (folder / archive.FRAMES_FOLDER_NAME).mkdir(parents=True)
    for number in numbers:
        archive.save_frame(folder, number, scene.frames([number]), float(times[number]), info)
        archive.save_image(folder, number, images[number])
    index = archive.LongScene(
        cameras=scene.cameras,
        times=times,
        size=scene.size,
        windows=torch.zeros(NUM_FRAMES, dtype=torch.int64),
        world_from_window=torch.eye(4, dtype=torch.double)[None],
        errors=torch.zeros(1, dtype=torch.double),
        metres_per_unit=float("nan"),
        info=info,
    )
    archive.save_index(folder, index)
    short = tmp_path / "short"
    (short / "frames").mkdir(parents=True)
    save_scene(short / "scene.npz", scene, times, info)
    for number, name in enumerate(source.names):
        shutil.copy(archive.image_file(folder, number), short / "frames" / f"{name}.jpg")
    return folder


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count frames of the long clip that are in memory whenever one is loaded."""
    alive: weakref.WeakSet = weakref.WeakSet()
    counts: list[int] = []
    load_scene = archive.load_scene

    def counted(path: Path) -> object:
        scene = load_scene(path)
        alive.add(scene.depths.untyped_storage())
        counts.append(len(alive))
        return scene

    monkeypatch.setattr(archive, "load_scene", counted)
    return counts


def test_info_prints_the_same_as_for_a_single_scene(
    long_results: Path, loaded: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("info", long_results) == 0
    printed = capsys.readouterr().out
    assert len(loaded) == NUM_FRAMES
    assert max(loaded) <= MAX_FRAMES_IN_MEMORY
    assert run("info", long_results.parent / "short") == 0
    assert capsys.readouterr().out == printed


def test_export_writes_the_same_as_for_a_single_scene(
    long_results: Path, loaded: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    formats = ("tum", "npz", "depth-png", "ply", "colmap-text")
    options = ("--to", *formats, "--metres-per-unit", 2)
    assert run("export", long_results, *options, "--out", tmp_path / "from_long") == 0
    summaries = capsys.readouterr().out
    assert len(loaded) >= NUM_FRAMES
    assert max(loaded) <= MAX_FRAMES_IN_MEMORY
    assert run("export", long_results.parent / "short", *options, "--out", tmp_path / "from_short") == 0
    assert capsys.readouterr().out.replace("from_short", "from_long") == summaries
    files = {path.relative_to(tmp_path / "from_long") for path in (tmp_path / "from_long").rglob("*.*")}
    assert {file.parts[0] for file in files} >= set(formats)
    for file in files:
        if file.suffix in (".txt", ".ply"):
            assert (tmp_path / "from_long" / file).read_bytes() == (tmp_path / "from_short" / file).read_bytes()


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
    assert f"showing 3 of {NUM_FRAMES} frames, one in 4" in capsys.readouterr().out
    assert len(loaded) == 3
    depths = read_recording(file)[DEPTH]
    assert [row.frame for row in depths] == [0, 1, 2]
    assert [row.seconds for row in depths] == pytest.approx([0.0, 0.4, 0.8])
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
    told = "recon4d: long: its run has not ended (12 frames are written so far); the reconstruct command that began it"
    assert capsys.readouterr().err.startswith(told)
