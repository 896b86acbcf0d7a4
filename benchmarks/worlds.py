"""Throughput of synthetic scenes: ``python -m benchmarks.worlds``.

Prints clips per second for building scenes, rendering them, and both, as the median over several batches.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import tyro

from recon4d.datasets.synthetic import (
    RenderSteps,
    SyntheticConfig,
    compile_render_steps,
    make_scenes,
    render_scenes,
)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Benchmark:
    """Build and render batches of synthetic scenes."""

    frames: int = 8
    """Number of frames of a clip."""
    height: int = 192
    """Height of the images in pixels."""
    width: int = 256
    """Width of the images in pixels."""
    batch: int = 2
    """Number of clips that are rendered at once."""
    batches: int = 5
    """Number of batches to measure, after one to warm up."""
    device: str = "cpu"
    """Device to render on."""
    compile: bool = False
    """Compile the expensive steps, which takes about half a minute."""


def main(benchmark: Benchmark) -> None:
    """Run the benchmark and print its results."""
    config = SyntheticConfig(num_frames=benchmark.frames, height=benchmark.height, width=benchmark.width)
    steps = compile_render_steps() if benchmark.compile else RenderSteps()
    seconds: dict[str, list[float]] = {"make": [], "render": []}
    for number in range(benchmark.batches + 1):
        indices = range(number * benchmark.batch, (number + 1) * benchmark.batch)
        scenes, made = timed(lambda rows=indices: make_scenes(config, 0, rows, benchmark.device), benchmark.device)
        _, rendered = timed(lambda scenes=scenes: render_scenes(scenes, config, steps=steps), benchmark.device)
        if number:  # the first batch is a warm-up
            seconds["make"].append(made)
            seconds["render"].append(rendered)
    seconds["both"] = [sum(pair) for pair in zip(*seconds.values(), strict=True)]
    size = f"{benchmark.width}x{benchmark.height}"
    print(f"{benchmark.frames} x {size} on {benchmark.device}, {benchmark.batch} at once")
    for name, values in seconds.items():
        print(f"{name:7} {benchmark.batch / statistics.median(values):8.2f} clips a second")


def timed(work: Callable[[], Result], device: str) -> tuple[Result, float]:
    """Run a function on a device; return its result and the time in seconds."""
    started = time.perf_counter()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
