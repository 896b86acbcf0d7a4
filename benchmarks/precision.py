"""Deviation of bfloat16 from float32: ``python -m benchmarks.precision``.

The output is the relative error of each field of the scene (norm of the difference divided by norm), and the speedup.
"""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import recon4d
from recon4d.zoo import find_model


@dataclass(frozen=True)
class Benchmark:
    """Compare both precisions on one clip."""

    clip: Path = Path("examples/dog.mp4")
    """The clip to reconstruct."""
    model: str = "recon4d_small"
    """Name of a model."""
    num_frames: int = 8
    """Number of frames."""
    device: str = "cpu"
    """Device of the model."""


def main(benchmark: Benchmark) -> None:
    """Print the relative errors and the speedup."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = find_model(benchmark.model, allow_untrained=True).to(benchmark.device)
    clip = recon4d.read_clip(benchmark.clip, benchmark.num_frames)
    scenes, seconds = {}, {}
    for precision in ("float32", "bfloat16"):
        recon4d.reconstruct(model, clip, precision=precision)  # warm-up
        started = time.perf_counter()
        scenes[precision] = recon4d.reconstruct(model, clip, precision=precision)
        seconds[precision] = time.perf_counter() - started
    exact, half = scenes["float32"], scenes["bfloat16"]

    print(f"{benchmark.model} on {benchmark.num_frames} frames, bfloat16 against float32")
    print(f"speed: {seconds['float32'] / seconds['bfloat16']:.1f} times")
    for name, field in {
        "world_from_cam": lambda scene: scene.cameras.world_from_cam,
        "intrinsics": lambda scene: scene.cameras.intrinsics,
        "depths": lambda scene: scene.depths,
        "points": lambda scene: scene.points,
        "tracks": lambda scene: scene.tracks.points,
        "dynamic": lambda scene: scene.dynamic,
    }.items():
        print(f"{name:15} relative error {relative_error(field(half), field(exact)):.1e}")


def relative_error(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference divided by the norm of the expected tensor."""
    return ((given - expected).norm() / expected.norm()).item()


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
