"""A long clip in one pass, in windows and by pairs: ``python -m benchmarks.windows`` prints accuracy, time and memory.

Each row is one `recon4d reconstruct` in a process of its own, over the pictures of a synthetic world whose truth scores
the answer. Seconds and memory are those of the whole command.
"""

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

from recon4d.datasets import Sample
from recon4d.eval import (
    Benchmark,
    BenchmarkConfig,
    Prediction,
    load_benchmark,
    score_prediction,
)
from recon4d.io import load_scene
from recon4d.io.long_archive import load_frames

COLUMNS = ("auc_30", "ate", "abs_rel")


@dataclass(frozen=True)
class Arguments:
    """Compare ways to take a long clip."""

    model: str = "recon4d_small"
    frames: tuple[int, ...] = (64, 256)
    window: int = 16
    overlap: int = 4
    single_pass_up_to: int = 128
    """Longer clips are not taken in one pass."""


@dataclass(frozen=True)
class Way:
    """One way to take a clip, and the options of the command that ask for it."""

    name: str
    options: tuple[str, ...]
    in_parts: bool = True


def main(arguments: Arguments) -> None:
    window = ("--window", str(arguments.window), "--overlap", str(arguments.overlap))
    named = f"windows {arguments.window}/{arguments.overlap}"
    print(f"{arguments.model}, worlds of 256x192")
    print(f"frames  {'way':22}" + "".join(f"{name:>9}" for name in COLUMNS) + "  seconds  peak GiB")
    for frames in arguments.frames:
        ways = [Way(named, window), Way(f"{named}, loops", (*window, "--loops")), Way("pairs", ("--anchored",))]
        if frames <= arguments.single_pass_up_to:
            ways.insert(0, Way("one pass", ("--num-frames", str(frames)), in_parts=False))
        benchmark = load_benchmark("worlds", BenchmarkConfig(num_frames=frames))
        sample = first_with_moving_camera(benchmark)
        with tempfile.TemporaryDirectory() as folder:
            pictures = write_pictures(sample, Path(folder) / "pictures")
            for number, way in enumerate(ways):
                out = Path(folder) / f"out{number}"
                seconds, peak = run(arguments.model, pictures, out, way)
                scene = load_frames(out, range(frames)) if way.in_parts else load_scene(out)
                prediction = Prediction.of_scene(scene, seconds)
                result = score_prediction(way.name, "world", prediction, sample.scene, benchmark)
                found = {score.metric: score.value for score in result.scores}
                values = "".join(f"{found[name]:9.3f}" for name in COLUMNS)
                print(f"{frames:6}  {way.name:22}{values}  {seconds:7.1f}  {peak:8.2f}", flush=True)


def first_with_moving_camera(benchmark: Benchmark) -> Sample:
    """A camera that stands still would say nothing about joining."""
    samples = (benchmark.read(clip) for clip in benchmark.clips)
    return next(sample for sample in samples if sample.scene.cameras.centers.std(dim=0).norm() > 0.1)


def write_pictures(sample: Sample, folder: Path) -> Path:
    """The frames of a clip as PNG files."""
    folder.mkdir()
    for number, image in enumerate(sample.clip.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:06d}.png")
    return folder


def run(model: str, pictures: Path, out: Path, way: Way) -> tuple[float, float]:
    """Seconds and largest resident GiB of one reconstruction."""
    command = [sys.executable, "-m", "recon4d.cli", "reconstruct", str(pictures), "--out", str(out), "--fps", "30"]
    command += ["--model", model, *way.options]
    started, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as printed:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=printed) as process:
            while process.poll() is None:
                peak = max(peak, peak_gib(process.pid))
                time.sleep(0.05)
        seconds = time.perf_counter() - started
        if process.returncode:
            printed.seek(0)
            raise SystemExit(f"the command failed: {' '.join(command)}\n{printed.read()}")
    return seconds, peak


def peak_gib(pid: int) -> float:
    """The largest memory that a process has had; what `getrusage` says would count this one's too, which starts it."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        found = None
    return int(found[1]) / 2**20 if found else 0.0


if __name__ == "__main__":
    main(tyro.cli(Arguments))
