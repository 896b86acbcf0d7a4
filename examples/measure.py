"""How long is it? A clip becomes a world, one known distance gives its scale, and another distance comes out in meters.

    python examples/measure.py examples/dog.mp4 --known 420 340 480 345 --meters 0.6 --wanted 40 60 600 60 --out out/dog

Pixels are x and y in the clip's own first frame. Points and cameras are written in meters: PLY and a COLMAP model.
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


@dataclass(frozen=True)
class Arguments:
    """Reconstruct a clip, scale it by one known distance, measure another, and write it in meters."""

    clip: tyro.conf.Positional[Path]
    """A video or a folder of pictures."""
    out: Path
    """A new folder."""
    known: tuple[int, int, int, int]
    """x y x y: two pixels of the first frame whose distance you know."""
    meters: float
    """That distance."""
    wanted: tuple[int, int, int, int]
    """x y x y: two pixels of the first frame whose distance you want."""
    model: str = "recon4d_mini"
    """A name of `recon4d models`."""
    num_frames: int = 16


def main(arguments: Arguments) -> None:
    clip = recon4d.read_clip(arguments.clip, num_frames=arguments.num_frames)
    model = recon4d.create_model(arguments.model)
    # At the clip's own size, so that its pixels are those of the maps.
    scene = recon4d.reconstruct(model, clip).resized(*clip.size)

    one, other = arguments.known[:2], arguments.known[2:]
    scene = recon4d.in_meters_by_distance(scene, 0, one, other, arguments.meters)
    length = distance(scene, arguments.wanted[:2], arguments.wanted[2:])
    print(f"from pixel {arguments.wanted[:2]} to {arguments.wanted[2:]}: {length:.2f} m")
    way = scene.cameras.centers.diff(dim=0).norm(dim=-1).sum()
    print(f"the camera goes {way:.2f} m, the median depth is {scene.depths.median():.2f} m")
    if not model.trained:
        print("the model was never trained: these lengths mean nothing yet")

    info = SceneInfo(model.name, model.trained, recon4d.__version__, clip.source, clip.size, settings={})
    with atomic_folder(arguments.out, overwrite=False) as folder:
        write_results(folder, clip, scene, info)
        for exported in export_results(folder / "metric", read_results(folder), ["ply", "colmap"], PointSelection()):
            print(f"{arguments.out / 'metric' / exported.format}: {exported.summary}")


def distance(scene: Scene, one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Between the points that two pixels (x, y) of the first frame see, in the scene's unit."""
    points = scene.points_from_depth[0]
    return float((points[one[1], one[0]] - points[other[1], other[0]]).norm())


if __name__ == "__main__":
    main(tyro.cli(Arguments))
