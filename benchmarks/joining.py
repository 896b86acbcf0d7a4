"""Error that windows and pairs add to a single pass, for a simulated network: ``python -m benchmarks.joining``.

The network is simulated by ground truth of worlds-v1 with typical errors: each call has a unit and a focal length of
its own, each camera is slightly wrong, and each depth map has a scale error, a smooth error and noise. A single pass
makes one focal length error, windows make a new one each; all other errors are the same. Differences between the rows
are therefore due to the alignment of windows. `recon4d evaluate --windows 8 3 --anchored` gives the same table for a
real network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import tyro

from recon4d.datasets import Sample
from recon4d.errors import UserError
from recon4d.eval import (
    Benchmark,
    BenchmarkConfig,
    Prediction,
    load_benchmark,
    score_prediction,
)
from recon4d.eval.window_methods import reconstruct_by_pairs, reconstruct_in_windows
from recon4d.geometry import rigid, rotation_from_axis_angle
from recon4d.inference.windows import LoopConfig, WindowConfig
from recon4d.records import Clip, ClipSource, Scene

COLUMNS = ("auc_30", "auc_5", "ate", "abs_rel", "delta_1")
"""Metrics to print."""


@dataclass(frozen=True)
class Arguments:
    """Compare a single pass, windows and pairs with a simulated network."""

    split: str = "32"
    """Split of worlds-v1."""
    num_frames: int | None = None
    """Number of frames of clips from the benchmark `worlds`, which then replaces worlds-v1."""
    clips: int | None = None
    """Largest number of clips; None for all."""
    window: int = 8
    """Number of frames of a window."""
    overlap: int = 3
    """Number of frames that consecutive windows share."""
    focal: float = 0.05
    """Standard deviation of the logarithm of the focal length, drawn once per call."""
    turn: float = 0.5
    """Standard deviation of the rotation of a camera about each axis, in degrees."""
    shift: float = 0.01
    """Standard deviation of the translation of a camera along each axis, as a fraction of the median depth."""
    depth: float = 0.03
    """Standard deviation of log depth: of the scale and of the smooth error of a frame, and of the noise of a pixel."""


def simulated_network(sample: Sample, arguments: Arguments) -> Callable[[Clip], Scene]:
    """Return a network whose output is ground truth with errors of known size; equal frames have equal errors."""

    def reconstruct_clip(clip: Clip) -> Scene:
        assert clip.source is not None
        numbers = clip.source.numbers
        call = torch.Generator().manual_seed(sum(number * 7**place % 1009 for place, number in enumerate(numbers)))
        scene = sample.scene.frames(numbers).in_frame(0)
        focal = math.exp(arguments.focal * float(torch.randn((), generator=call)))
        factors = torch.tensor([[focal, 1.0, 1.0], [1.0, focal, 1.0], [1.0, 1.0, 1.0]])
        frames = [torch.Generator().manual_seed(number) for number in numbers]
        camera_errors = torch.stack([_camera_error(scene, frame, arguments) for frame in frames])
        cameras = replace(
            scene.cameras,
            world_from_cam=scene.cameras.world_from_cam @ camera_errors,
            intrinsics=scene.cameras.intrinsics * factors,
        )
        depth_factors = torch.stack([_depth_error(scene.size, frame, arguments) for frame in frames])
        scene = scene.with_cameras(cameras)
        scene = replace(scene, depths=scene.depths * depth_factors)
        unit = math.exp(0.3 * float(torch.randn((), generator=call)))
        return replace(scene, points=scene.points_from_depth).transformed(torch.diag(torch.tensor([unit] * 3 + [1.0])))

    return reconstruct_clip


def _camera_error(scene: Scene, generator: torch.Generator, arguments: Arguments) -> torch.Tensor:
    turn = math.radians(arguments.turn) * torch.randn(3, generator=generator)
    shift = arguments.shift * float(scene.depths.median()) * torch.randn(3, generator=generator)
    return rigid(rotation_from_axis_angle(turn), shift)


def _depth_error(size: tuple[int, int], generator: torch.Generator, arguments: Arguments) -> torch.Tensor:
    smooth = F.interpolate(torch.randn(1, 1, 4, 4, generator=generator), size, mode="bicubic")[0, 0]
    scale, noise = torch.randn((), generator=generator), torch.randn(size, generator=generator)
    return (arguments.depth * (scale + smooth + noise)).exp()


def benchmark_of(arguments: Arguments) -> Benchmark:
    """Return the clips to use."""
    if arguments.num_frames is None:
        return load_benchmark("worlds-v1", BenchmarkConfig(split=arguments.split, clips=arguments.clips))
    return load_benchmark("worlds", BenchmarkConfig(num_frames=arguments.num_frames, clips=arguments.clips))


def main(arguments: Arguments) -> None:
    """Print the mean metrics of each method."""
    windows = WindowConfig(arguments.window, arguments.overlap)
    named = f"windows {arguments.window}/{arguments.overlap}"
    methods: dict[str, Callable[[Callable[[Clip], Scene], Clip], Scene]] = {
        "one pass": lambda network, clip: network(_numbered(clip)),
        named: lambda network, clip: reconstruct_in_windows(network, clip, windows),
        f"{named}, a lens each": lambda network, clip: reconstruct_in_windows(
            network, clip, replace(windows, lens="each")
        ),
        f"{named}, loops": lambda network, clip: reconstruct_in_windows(
            network, clip, replace(windows, loops=LoopConfig())
        ),
        "pairs": reconstruct_by_pairs,
    }
    benchmark = benchmark_of(arguments)
    found: dict[str, list[list[float]]] = {method: [] for method in methods}
    for name in benchmark.clips:
        sample = benchmark.read(name)
        sample = replace(sample, scene=replace(sample.scene, tracks=None))
        for method, reconstruct in methods.items():
            try:
                prediction = Prediction.from_scene(
                    reconstruct(simulated_network(sample, arguments), sample.clip), seconds=0.0
                )
            except UserError as error:
                prediction = Prediction(None, "failed", 0.0, str(error))
                print(f"{name}, {method}: {error}")
            result = score_prediction(method, name, prediction, sample.scene, benchmark)
            values = {score.metric: score.value for score in result.scores}
            found[method].append([values[column] for column in COLUMNS])
    print(f"{benchmark.name} {benchmark.split}, {len(benchmark.clips)} clips, simulated network")
    print(f"{'method':24}" + "".join(f"{column:>9}" for column in COLUMNS))
    for method, rows in found.items():
        print(f"{method:24}" + "".join(f"{value:9.3f}" for value in torch.tensor(rows).nanmean(dim=0).tolist()))


def _numbered(clip: Clip) -> Clip:
    """Number the frames of a clip in its source, as windows do."""
    numbers = tuple(range(clip.num_frames))
    return replace(clip, source=ClipSource("clip", tuple(map(str, numbers)), numbers))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
