"""How many worlds a second: ``python -m benchmarks.worlds``.

Printed are clips a second for making scenes, rendering them, and both, the median over several batches.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from recon4d.datasets.synthetic import (
    RenderParts,
    SyntheticConfig,
    compiled_parts,
    make_scenes,
    render_scenes,
)


@dataclass(frozen=True)
class Benchmark:
    """Make and render batches of worlds."""

    frames: int = 8
    height: int = 192
    width: int = 256
    batch: int = 2
    batches: int = 5
    device: str = "cpu"
    compile: bool = False
    """Compile the costly steps (half a minute once)."""


def main(benchmark: Benchmark) -> None:
    config = SyntheticConfig(num_frames=benchmark.frames, height=benchmark.height, width=benchmark.width)
    parts = compiled_parts() if benchmark.compile else RenderParts()
    seconds: dict[str, list[float]] = {"make": [], "render": []}
    for number in range(benchmark.batches + 1):
        indices = range(number * benchmark.batch, (number + 1) * benchmark.batch)
        world, made = timed(lambda indices=indices: make_scenes(config, 0, indices, benchmark.device), benchmark.device)
        _, rendered = timed(lambda world=world: render_scenes(world, config, parts=parts), benchmark.device)
        if number:  # the first one warms up
            seconds["make"].append(made)
            seconds["render"].append(rendered)
    seconds["both"] = [sum(pair) for pair in zip(*seconds.values(), strict=True)]
    print(f"{benchmark.frames} x {benchmark.width}x{benchmark.height} on {benchmark.device}, {benchmark.batch} at once")
    for name, values in seconds.items():
        print(f"{name:7} {benchmark.batch / statistics.median(values):8.2f} clips a second")


def timed(work: Callable[[], object], device: str) -> tuple[object, float]:
    started = time.perf_counter()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
