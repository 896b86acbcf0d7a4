"""Refined windows on a path that returns, with and without loops: ``python -m benchmarks.long_clips``.

The camera goes around in a synthetic room until it sees the first view again. Windows are reconstructed once, and put
together without and with loops. Errors are those of the cameras after alignment of the first window; `drift` is the
error of the last window, which sees the place of the first one, and `scale` the ratio of its unit to the first one.
Seconds are those of all steps that a row needs; memory is the peak of the process, without rendering.
"""

import math
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import tyro
from PIL import Image
from torch import Tensor

from benchmarks.locate import align
from benchmarks.windows import peak_gib
from recon4d import __version__
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScene, make_scenes, render_scenes
from recon4d.datasets.synthetic.layout import deactivate_colliding
from recon4d.geometry import rigid, rotation_angle, transform_cameras
from recon4d.inference import ReconstructConfig, reconstruct_and_match
from recon4d.inference.windows import LoopConfig, WindowConfig, reconstruct_windows, refine_windows
from recon4d.io import SceneInfo
from recon4d.io.long_clips import open_long_clip
from recon4d.records import Cameras, Clip, Scene
from recon4d.refine import Refinement, refine_clip
from recon4d.zoo import find_model

CHUNK = 20
"""Number of frames that are rendered at once."""
CAMERA_HEIGHT = 1.3
"""Height of the camera above the ground in meters."""
RADIUS = 0.35
"""Radius of the path as a fraction of the smaller half width of the room."""
FIELD_OF_VIEW = 75.0
"""Horizontal field of view in degrees."""


@dataclass(frozen=True)
class Arguments:
    """Measure drift on a path that returns."""

    frames: int = 300
    """Number of frames."""
    turn: float = 400.0
    """Angle that the camera goes around in all frames, in degrees; above 360 it sees the first views again."""
    scenes: tuple[int, ...] = (4,)
    """Indices of the synthetic rooms."""
    model: str = "recon4d_mini"
    """Name of a model."""
    window: int = 16
    """Number of frames of a window."""
    overlap: int = 4
    """Number of frames that consecutive windows share."""
    size: tuple[int, int] = (320, 240)
    """Width and height of the pictures."""
    unrefined: bool = True
    """Whether windows without refinement are measured too."""


@dataclass(frozen=True)
class Row:
    """Result of one way to put windows together."""

    name: str
    """Name of the row."""
    cameras: Tensor
    """Camera-to-world transforms of all frames."""
    seconds: float
    """Seconds of all steps."""
    peak: float
    """Peak memory of the process in GiB."""


def main(arguments: Arguments) -> None:
    """Print a row for each room and method."""
    columns = ("degrees", "% depth", "drift deg", "drift %", "scale", "s/frame", "GiB")
    print(f"{arguments.model}, {arguments.frames} frames, windows {arguments.window}/{arguments.overlap}")
    print(f"{'room':>4}  {'method':20}" + "".join(f"{name:>11}" for name in columns), flush=True)
    for scene in arguments.scenes:
        with tempfile.TemporaryDirectory() as folder:
            pictures = Path(folder) / "pictures"
            truth, depth = render(arguments, scene, pictures)
            for is_refined in (False, True) if arguments.unrefined else (True,):
                # A new process, whose memory does not include that of rendering.
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    rows = pool.submit(reconstruct_rows, pictures, Path(folder), arguments, is_refined).result()
                for row in rows:
                    values = measure(row.cameras, truth, depth, arguments)
                    values = (*values, row.seconds / arguments.frames, row.peak)
                    print(f"{scene:4}  {row.name:20}" + "".join(f"{value:11.3f}" for value in values), flush=True)


def reconstruct_rows(pictures: Path, folder: Path, arguments: Arguments, is_refined: bool) -> list[Row]:
    """Reconstruct the windows of a clip, and put them together without and with loops."""
    model = find_model(arguments.model, allow_untrained=True)
    clip = open_long_clip(pictures, fps=30)
    info = SceneInfo(model.name, True, __version__, clip.source, clip.size, settings={})
    config = WindowConfig(arguments.window, arguments.overlap)
    known: dict[tuple[str, ...], Path] = {}
    name = "refined" if is_refined else "as predicted"

    def reconstruct_window(window: Clip) -> Scene | Refinement:
        """Reconstruct a window, or read it from disk if it is known."""
        assert window.source is not None
        has_lens = window.priors is not None and bool(window.priors.intrinsics.isfinite().all())
        key = (*window.source.names, str(has_lens))
        if key not in known:
            known[key] = folder / f"{name}{len(known)}.pt"
            scene, matches = reconstruct_and_match(model, window, ReconstructConfig(anchors=()))
            torch.save(refine_clip(window, scene, matches) if is_refined else scene, known[key])
        return torch.load(known[key], weights_only=False)

    rows, seconds = [], 0.0
    for loops in (None, LoopConfig()):
        out = folder / f"{name}, {loops is not None}"
        started = time.perf_counter()
        run = partial(refine_windows if is_refined else reconstruct_windows, reconstruct_window)
        cameras = run(clip, out, info, replace(config, loops=loops)).cameras
        seconds += time.perf_counter() - started
        suffix = "" if loops is None else ", loops"
        rows.append(Row(name + suffix, cameras.world_from_cam.double(), seconds, peak_gib(os.getpid())))
    return rows


def measure(cameras: Tensor, truth: Tensor, depth: float, arguments: Arguments) -> tuple[float, ...]:
    """Return the mean errors of all frames and of the last window, and the scale of the last window."""
    first, last = slice(0, arguments.window), slice(-arguments.window, None)
    moved = transform_cameras(align(cameras[first], truth[first]), cameras)
    angles = rotation_angle(moved[:, :3, :3].mT @ truth[:, :3, :3]).rad2deg()
    distances = 100 * (moved[:, :3, 3] - truth[:, :3, 3]).norm(dim=-1) / depth
    lengths = [torch.pdist(one[last, :3, 3]).mean() for one in (moved, truth)]
    values = (angles.mean(), distances.mean(), angles[last].mean(), distances[last].mean(), lengths[0] / lengths[1])
    return tuple(float(value) for value in values)


def render(arguments: Arguments, index: int, folder: Path) -> tuple[Tensor, float]:
    """Render the frames of a path around a room; return the true cameras and the median depth."""
    width, height = arguments.size
    config = SyntheticConfig(CHUNK, height, width, static_scene_share=1.0, static_camera_share=0.0)
    room = make_scenes(config, 0, [index])
    path = circle(room, arguments)
    folder.mkdir(parents=True)
    chunks = [path[start : start + CHUNK] for start in range(0, len(path), CHUNK)]
    shapes = room.shapes
    for chunk in chunks:
        shapes = deactivate_colliding(shapes, filled(chunk)[None, :, :3, 3])
    depths = []
    for number, chunk in enumerate(chunks):
        sample = render_scenes(replace(room, shapes=shapes, cameras=cameras_of(filled(chunk), config)), config, ())
        depths.append(sample.scene.depths[0, : len(chunk)].median())
        for place, image in enumerate(sample.clip.images[0, : len(chunk)]):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            picture.save(folder / f"{number * CHUNK + place:06d}.png")
    return path, float(torch.stack(depths).median())


def circle(room: SyntheticScene, arguments: Arguments) -> Tensor:
    """Return cameras on a circle that look outward."""
    angles = torch.linspace(0, math.radians(arguments.turn), arguments.frames, dtype=torch.double)
    forward = torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], dim=-1)
    down = torch.tensor([0.0, 0.0, -1.0], dtype=torch.double).expand_as(forward)
    rotation = torch.stack([torch.linalg.cross(down, forward), down, forward], dim=-1)
    radius = RADIUS * float(room.enclosure[0, :2].min())
    height = torch.tensor([0.0, 0.0, CAMERA_HEIGHT], dtype=torch.double)
    return rigid(rotation, radius * forward + height)


def filled(chunk: Tensor) -> Tensor:
    """Repeat the last camera of a chunk up to the number of frames of all chunks."""
    return torch.cat([chunk, chunk[-1:].expand(CHUNK - len(chunk), 4, 4)])


def cameras_of(world_from_cam: Tensor, config: SyntheticConfig) -> Cameras:
    """Return cameras with the field of view of the benchmark."""
    focal = config.width / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))
    matrix = torch.tensor([[focal, 0, config.width / 2], [0, focal, config.height / 2], [0, 0, 1]])
    return Cameras(world_from_cam.float()[None], matrix.expand(1, len(world_from_cam), 3, 3).clone())


if __name__ == "__main__":
    main(tyro.cli(Arguments))
