"""Folders of long clips, for tests of their readers."""

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from walls import make_info, make_scene, make_tracks

from recon4d.io import SceneInfo, long_archive
from recon4d.records import Scene


def write_long_scene(folder: Path, scene: Scene, times: Tensor, info: SceneInfo, images: Tensor) -> None:
    """Write a scene as a long clip of one window."""
    (folder / "frames").mkdir(parents=True)
    for number in range(scene.num_frames):
        frame = scene.frames([number])
        if frame.tracks is not None and number > 0:
            frame = replace(frame, tracks=replace(frame.tracks, anchors=torch.tensor([-1])))
        long_archive.save_frame(folder, number, frame, float(times[number]), info)
        long_archive.save_image(folder, number, images[number])
    windows, placement = torch.zeros(scene.num_frames, dtype=torch.int64), torch.eye(4, dtype=torch.float64)[None]
    unit = float(scene.metres_per_unit)
    index = long_archive.LongScene(scene.cameras, times, scene.size, windows, placement, torch.zeros(1), unit, info)
    long_archive.save_index(folder, index)


def write_long_clip(folder: Path, with_tracks: bool = False) -> Scene:
    """Write three frames of the wall, and return their scene."""
    scene = make_scene()
    if with_tracks:
        scene = replace(scene, tracks=make_tracks().map(lambda values: values[:1]))
    images = torch.zeros(3, 3, *scene.size, dtype=torch.uint8)
    write_long_scene(folder, scene, torch.arange(3) / 10, make_info(original_size=scene.size), images)
    return scene


def count_loaded_frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows, whenever a frame of a long clip is loaded, by the number of frames in memory."""
    alive: weakref.WeakSet = weakref.WeakSet()
    counts: list[int] = []
    load_scene = long_archive.load_scene

    def load_and_count(path: Path) -> Scene:
        scene = load_scene(path)
        alive.add(scene.depths.untyped_storage())
        counts.append(len(alive))
        return scene

    monkeypatch.setattr(long_archive, "load_scene", load_and_count)
    return counts
