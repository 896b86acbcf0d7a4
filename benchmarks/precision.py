"""How close bfloat16 stays to float32: ``python -m benchmarks.precision``.

Printed are relative errors (norm of the difference over norm) of what a Scene holds, and how much faster the pass is.
"""

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

import recon4d


@dataclass(frozen=True)
class Benchmark:
    """Compare both precisions on one clip."""

    clip: Path = Path("examples/dog.mp4")
    model: str = "recon4d_small"
    num_frames: int = 8
    device: str = "cpu"


def main(benchmark: Benchmark) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = recon4d.create_model(benchmark.model).to(benchmark.device)
    clip = recon4d.read_clip(benchmark.clip, benchmark.num_frames)
    config = recon4d.ReconstructConfig()
    scenes, seconds = {}, {}
    for precision in ("float32", "bfloat16"):
        recon4d.reconstruct(model, clip, replace(config, precision=precision))  # warm
        started = time.perf_counter()
        scenes[precision] = recon4d.reconstruct(model, clip, replace(config, precision=precision))
        seconds[precision] = time.perf_counter() - started
    exact, half = scenes["float32"], scenes["bfloat16"]

    print(f"{benchmark.model} on {benchmark.num_frames} frames, bfloat16 against float32")
    print(f"speed: {seconds['float32'] / seconds['bfloat16']:.1f} times")
    for name, of in {
        "world_from_cam": lambda scene: scene.cameras.world_from_cam,
        "intrinsics": lambda scene: scene.cameras.intrinsics,
        "depths": lambda scene: scene.depths,
        "points": lambda scene: scene.points,
        "tracks": lambda scene: scene.tracks.points,
        "moving": lambda scene: scene.moving,
    }.items():
        print(f"{name:15} relative error {relative_error(of(half), of(exact)):.1e}")


def relative_error(given: torch.Tensor, expected: torch.Tensor) -> float:
    return ((given - expected).norm() / expected.norm()).item()


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
