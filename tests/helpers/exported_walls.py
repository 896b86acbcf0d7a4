"""Result folders of a wall, and their export in one format."""

from dataclasses import replace
from pathlib import Path

import torch
from scenes import WIDTH, make_scene

from recon4d.io import (
    PointSelection,
    SavedResults,
    SceneInfo,
    export_results,
    save_scene,
    write_jpeg,
)
from recon4d.records import ClipSource, Scene

TIMES = torch.tensor([0.2, 0.0, 0.1])

NAMES = ("first picture", "second", "third")

EVERYTHING = PointSelection(drop=0.0)


def save(folder: Path, scene: Scene, times: torch.Tensor = TIMES, factor: int = 2) -> Path:
    """Write a result folder whose pictures, one color each, are `factor` times as large as the maps."""
    height, width = scene.size[0] * factor, scene.size[1] * factor
    names = NAMES if scene.num_frames == 3 else tuple(f"view_{frame}" for frame in range(scene.num_frames))
    source = ClipSource("clip.mp4", names, tuple(range(scene.num_frames)))
    (folder / "frames").mkdir(parents=True)
    for frame, name in enumerate(names):
        picture = torch.tensor([40 + 60 * frame, 100, 200], dtype=torch.uint8)[:, None, None].expand(3, height, width)
        write_jpeg(folder / "frames" / f"{name}.jpg", picture)
    save_scene(folder, scene, times, SceneInfo("truth", True, "0", source, (height, width), {}))
    return folder


def wall() -> Scene:
    """Make the slanted wall, with the left quarter of each map dynamic."""
    scene = make_scene()
    scene.dynamic[:, :, : WIDTH // 4] = 1.0
    return replace(scene, tracks=None)


def written(tmp_path: Path, results: SavedResults, name: str, selection: PointSelection = EVERYTHING) -> Path:
    export_results(tmp_path / "out", results, [name], selection)
    return tmp_path / "out" / name
