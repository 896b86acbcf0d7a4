"""`recon4d info` and other readers of results take a long clip frame by frame, in bounded memory."""

import weakref
from pathlib import Path

import pytest
import torch
import walls
from commands import run

from recon4d.io import long_archive as archive
from recon4d.io import save_scene
from recon4d.records import ClipSource

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
    (tmp_path / "short").mkdir()
    save_scene(tmp_path / "short" / "scene.npz", scene, times, info)
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
