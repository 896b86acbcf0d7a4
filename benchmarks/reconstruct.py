"""Time and memory of the command `recon4d reconstruct`: ``python -m benchmarks.reconstruct``.

Each run is a process of its own. The table has the time of the network (as the command prints it), the time of the
whole command, and the peak resident memory, as medians over the runs.
"""

import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Benchmark:
    """Measure reconstructions of one clip."""

    clip: Path = Path("examples/dog.mp4")
    """The clip to reconstruct."""
    model: str = "recon4d_small"
    """Name of a model, or a checkpoint file."""
    num_frames: tuple[int, ...] = (16,)
    """Numbers of frames."""
    runs: int = 3
    """Number of runs for each number of frames."""


@dataclass(frozen=True)
class Run:
    """Measurements of one run."""

    network_seconds: float
    """Time of the network."""
    command_seconds: float
    """Time of the whole command."""
    peak_gib: float
    """Peak resident memory in GiB."""


def main(benchmark: Benchmark) -> None:
    """Print a row for each number of frames."""
    print(f"{benchmark.clip}, {benchmark.model}, median of {benchmark.runs} runs")
    print("frames  network s  command s  peak GiB")
    for frames in benchmark.num_frames:
        runs = [measure(benchmark, frames) for _ in range(benchmark.runs)]
        median = [
            statistics.median(getattr(run, name) for run in runs)
            for name in ("network_seconds", "command_seconds", "peak_gib")
        ]
        print(f"{frames:6}  {median[0]:9.1f}  {median[1]:9.1f}  {median[2]:8.2f}", flush=True)


def measure(benchmark: Benchmark, frames: int) -> Run:
    """Run the command once."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "recon4d.cli", "reconstruct", str(benchmark.clip)]
        command += [
            "--out",
            f"{folder}/out",
            "--model",
            benchmark.model,
            "--num-frames",
            str(frames),
            "--refine",
            "off",
        ]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
            # wait4 measures this child only; the peak over all children would never decrease.
            _, _, usage = wait(process.pid)
        seconds = time.perf_counter() - started
    network = re.search(r"pixels in ([\d.]+) s", printed)
    if network is None:
        raise SystemExit(f"the command failed: {' '.join(command)}")
    return Run(float(network[1]), seconds, usage.ru_maxrss / 2**20)


def wait(pid: int) -> tuple[int, int, resource.struct_rusage]:
    """Wait for a child process and return its resource usage."""
    import os

    return os.wait4(pid, 0)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
