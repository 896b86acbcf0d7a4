"""Measure a length in a video: reconstruct a clip, scale the scene by one known distance, and measure another.

    python examples/measure.py examples/dog.mp4 --known 420 340 480 345 --meters 0.6 --wanted 40 60 600 60 --out out/dog

Pixels are given as x and y in the first frame. Points and cameras are written in meters, as PLY and a COLMAP model.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

import recon4d
from recon4d.io import (
    PointSelection,
    SceneInfo,
    atomic_folder,
    export_results,
    read_results,
    write_results,
)
from recon4d.records import Scene
from recon4d.zoo import find_model


@dataclass(frozen=True)
class Arguments:
    """Reconstruct a clip, scale the scene by one known distance, measure another, and write the scene in meters."""

    clip: tyro.conf.Positional[Path]
    """A video or a folder of photos."""
    out: Path
    """Folder to write to; it must not exist."""
    known: tuple[int, int, int, int]
    """x y x y: two pixels of the first frame with a known distance."""
    meters: float
    """The known distance in meters."""
    wanted: tuple[int, int, int, int]
    """x y x y: two pixels of the first frame whose distance is measured."""
    model: str = "recon4d_mini"
    """Name of a model, see `recon4d models`."""
    num_frames: int = 16
    """Number of frames, sampled uniformly from the clip."""


def main(arguments: Arguments) -> None:
    clip = recon4d.read_clip(arguments.clip, num_frames=arguments.num_frames)
    model = find_model(arguments.model, allow_untrained=True)
    # At the size of the clip, so that the given pixels are pixels of the maps.
    scene = recon4d.reconstruct(model, clip).resized(*clip.size)

    first, second = arguments.known[:2], arguments.known[2:]
    scene = scene.in_metres_by_distance(0, first, second, arguments.meters)
    length = distance(scene, arguments.wanted[:2], arguments.wanted[2:])
    print(f"from pixel {arguments.wanted[:2]} to {arguments.wanted[2:]}: {length:.2f} m")
    path_length = scene.cameras.centers.diff(dim=0).norm(dim=-1).sum()
    print(f"the camera path is {path_length:.2f} m long, the median depth is {scene.depths.median():.2f} m")
    if not model.trained:
        print("the model has untrained weights: these lengths are meaningless")

    info = SceneInfo(model.name, model.trained, recon4d.__version__, clip.source, clip.size, settings={})
    with atomic_folder(arguments.out, overwrite=False) as folder:
        write_results(folder, clip, scene, info)
        for exported in export_results(folder / "metric", read_results(folder), ["ply", "colmap"], PointSelection()):
            print(f"{arguments.out / 'metric' / exported.format}: {exported.summary}")


def distance(scene: Scene, first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Return the distance between the points at two pixels (x, y) of the first frame, in the unit of the scene."""
    points = scene.points_from_depth[0]
    return float((points[first[1], first[0]] - points[second[1], second[0]]).norm())


if __name__ == "__main__":
    main(tyro.cli(Arguments))
