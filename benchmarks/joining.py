"""What it costs to take a clip in parts, whatever the network: ``python -m benchmarks.joining`` on worlds-v1.

In place of a network stands the truth, disturbed as networks are: each call answers in a unit of its own and with a
focal length of its own, each camera is a little off, each depth map has a scale and a bend of its own and noise. One
pass makes the focal error once, windows make it again each time; the rest is the same. So what the rows differ by is
what joining adds or averages out. `recon4d evaluate --windows 8 3 --anchored` is the same table for a network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import tyro

from recon4d.datasets import Sample
from recon4d.eval import (
    Benchmark,
    BenchmarkConfig,
    Prediction,
    load_benchmark,
    score_prediction,
)
from recon4d.eval.window_methods import by_pairs, in_windows
from recon4d.geometry import rigid, rotation_from_axis_angle
from recon4d.inference.windows import LoopConfig, WindowConfig
from recon4d.records import Clip, ClipSource, Scene

COLUMNS = ("auc_30", "auc_5", "ate", "abs_rel", "delta_1")


@dataclass(frozen=True)
class Arguments:
    """Compare one pass, windows and pairs, with the disturbed truth as the network."""

    split: str = "32"
    """Of worlds-v1."""
    num_frames: int | None = None
    """Take clips of so many frames of the benchmark `worlds` instead."""
    clips: int | None = None
    window: int = 8
    overlap: int = 3
    focal: float = 0.05
    """Standard deviation of the logarithm of the focal length, drawn once a call."""
    turn: float = 0.5
    """Degrees that a camera is turned by, about each axis."""
    shift: float = 0.01
    """Of the median depth that a camera is shifted by, along each axis."""
    depth: float = 0.03
    """Standard deviation of the logarithm of depth: of a frame's scale, of its bend, and of each pixel's noise."""


def disturbed(sample: Sample, arguments: Arguments) -> Callable[[Clip], Scene]:
    """A network that is right up to errors of a known size, the same for the same frames."""

    def reconstruct_clip(clip: Clip) -> Scene:
        assert clip.source is not None
        numbers = clip.source.numbers
        call = torch.Generator().manual_seed(sum(number * 7**place % 1009 for place, number in enumerate(numbers)))
        scene = sample.scene.frames(numbers).in_frame(0)
        focal = math.exp(arguments.focal * float(torch.randn((), generator=call)))
        lens = torch.tensor([[focal, 1.0, 1.0], [1.0, focal, 1.0], [1.0, 1.0, 1.0]])
        frames = [torch.Generator().manual_seed(number) for number in numbers]
        moved = torch.stack([_camera_error(scene, frame, arguments) for frame in frames])
        cameras = replace(
            scene.cameras,
            world_from_cam=scene.cameras.world_from_cam @ moved,
            intrinsics=scene.cameras.intrinsics * lens,
        )
        factors = torch.stack([_depth_error(scene.size, frame, arguments) for frame in frames])
        scene = scene.with_cameras(cameras)
        scene = replace(scene, depths=scene.depths * factors)
        unit = math.exp(0.3 * float(torch.randn((), generator=call)))
        return replace(scene, points=scene.points_from_depth).transformed(torch.diag(torch.tensor([unit] * 3 + [1.0])))

    return reconstruct_clip


def _camera_error(scene: Scene, generator: torch.Generator, arguments: Arguments) -> torch.Tensor:
    turn = math.radians(arguments.turn) * torch.randn(3, generator=generator)
    shift = arguments.shift * float(scene.depths.median()) * torch.randn(3, generator=generator)
    return rigid(rotation_from_axis_angle(turn), shift)


def _depth_error(size: tuple[int, int], generator: torch.Generator, arguments: Arguments) -> torch.Tensor:
    bend = F.interpolate(torch.randn(1, 1, 4, 4, generator=generator), size, mode="bicubic")[0, 0]
    scale, noise = torch.randn((), generator=generator), torch.randn(size, generator=generator)
    return (arguments.depth * (scale + bend + noise)).exp()


def benchmark_of(arguments: Arguments) -> Benchmark:
    if arguments.num_frames is None:
        return load_benchmark("worlds-v1", BenchmarkConfig(split=arguments.split, clips=arguments.clips))
    return load_benchmark("worlds", BenchmarkConfig(num_frames=arguments.num_frames, clips=arguments.clips))


def main(arguments: Arguments) -> None:
    windows = WindowConfig(arguments.window, arguments.overlap)
    named = f"windows {arguments.window}/{arguments.overlap}"
    ways: dict[str, Callable[[Callable[[Clip], Scene], Clip], Scene]] = {
        "one pass": lambda network, clip: network(_numbered(clip)),
        named: lambda network, clip: in_windows(network, clip, windows),
        f"{named}, a lens each": lambda network, clip: in_windows(network, clip, replace(windows, lens="each")),
        f"{named}, loops": lambda network, clip: in_windows(network, clip, replace(windows, loops=LoopConfig())),
        "pairs": by_pairs,
    }
    benchmark = benchmark_of(arguments)
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    for name in benchmark.clips:
        sample = benchmark.read(name)
        sample = replace(sample, scene=replace(sample.scene, tracks=None))
        for way, take in ways.items():
            try:
                prediction = Prediction.of_scene(take(disturbed(sample, arguments), sample.clip), seconds=0.0)
            except ValueError as error:
                prediction = Prediction(None, "failed", 0.0, str(error))
                print(f"{name}, {way}: {error}")
            result = score_prediction(way, name, prediction, sample.scene, benchmark)
            values = {score.metric: score.value for score in result.scores}
            found[way].append([values[column] for column in COLUMNS])
    print(f"{benchmark.name} {benchmark.split}, {len(benchmark.clips)} clips, the disturbed truth as the network")
    print(f"{'way':24}" + "".join(f"{column:>9}" for column in COLUMNS))
    for way, rows in found.items():
        print(f"{way:24}" + "".join(f"{value:9.3f}" for value in torch.tensor(rows).nanmean(dim=0).tolist()))


def _numbered(clip: Clip) -> Clip:
    """The clip with the source that windows give it."""
    numbers = tuple(range(clip.num_frames))
    return replace(clip, source=ClipSource("clip", tuple(map(str, numbers)), numbers))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
