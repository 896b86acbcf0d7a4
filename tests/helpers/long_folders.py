"""The folder of a long clip, for tests of its readers."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from walls import make_info, make_scene, make_tracks

from recon4d.io.long_archive import LongScene, save_frame, save_image, save_index
from recon4d.records import Scene


def write_long_clip(folder: Path, with_tracks: bool = False) -> Scene:
    """Write three frames of one window, and return their scene."""
    scene = make_scene()
    if with_tracks:
        scene = replace(scene, tracks=make_tracks().map(lambda values: values[:1]))
    info = make_info(original_size=scene.size)
    (folder / "frames").mkdir(parents=True)
    for number in range(3):
        frame = scene.frames([number])
        if frame.tracks is not None and number > 0:
            frame = replace(frame, tracks=replace(frame.tracks, anchors=torch.tensor([-1])))
        save_frame(folder, number, frame, number / 10, info)
        save_image(folder, number, torch.zeros(3, *scene.size, dtype=torch.uint8))
    windows, placement = torch.zeros(3, dtype=torch.int64), torch.eye(4, dtype=torch.float64)[None]
    times, errors = torch.arange(3) / 10, torch.zeros(1)
    save_index(folder, LongScene(scene.cameras, times, scene.size, windows, placement, errors, math.nan, info))
    return scene
