"""Accuracy, time and memory of a single pass, windows and pairs on long clips: ``python -m benchmarks.windows``.

Each row is one `recon4d reconstruct` in a process of its own, on the images of a synthetic scene with ground truth.
Seconds and memory are those of the whole command.
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
"""Metrics to print."""


@dataclass(frozen=True)
class Arguments:
    """Compare methods for long clips."""

    model: str = "recon4d_small"
    """Name of a model, or a checkpoint file."""
    frames: tuple[int, ...] = (64, 256)
    """Numbers of frames of the clips."""
    window: int = 16
    """Number of frames of a window."""
    overlap: int = 4
    """Number of frames that consecutive windows share."""
    single_pass_up_to: int = 128
    """Largest number of frames for the single pass."""


@dataclass(frozen=True)
class Variant:
    """One method and the options of the command that select it."""

    name: str
    """Name of the row."""
    options: tuple[str, ...]
    """Options of `recon4d reconstruct`."""
    is_long: bool = True
    """Whether the result is a folder of frames rather than a scene.npz."""


def main(arguments: Arguments) -> None:
    """Print a row for each method and number of frames."""
    window = ("--window", str(arguments.window), "--overlap", str(arguments.overlap), "--refine", "off")
    named = f"windows {arguments.window}/{arguments.overlap}"
    print(f"{arguments.model}, synthetic scenes of 256x192")
    print(f"frames  {'method':22}" + "".join(f"{name:>9}" for name in COLUMNS) + "  seconds  peak GiB")
    for frames in arguments.frames:
        variants = [
            Variant(named, window),
            Variant(f"{named}, loops", (*window, "--loops")),
            Variant("pairs", ("--anchored",)),
        ]
        if frames <= arguments.single_pass_up_to:
            variants.insert(0, Variant("one pass", ("--num-frames", str(frames), "--refine", "off"), is_long=False))
        benchmark = load_benchmark("worlds", BenchmarkConfig(num_frames=frames))
        sample = first_with_moving_camera(benchmark)
        with tempfile.TemporaryDirectory() as folder:
            pictures = write_pictures(sample, Path(folder) / "pictures")
            for number, variant in enumerate(variants):
                out = Path(folder) / f"out{number}"
                seconds, peak = run(arguments.model, pictures, out, variant)
                scene = load_frames(out, range(frames)) if variant.is_long else load_scene(out)
                prediction = Prediction.from_scene(scene, seconds)
                result = score_prediction(variant.name, "world", prediction, sample.scene, benchmark)
                found = {score.metric: score.value for score in result.scores}
                values = "".join(f"{found[name]:9.3f}" for name in COLUMNS)
                print(f"{frames:6}  {variant.name:22}{values}  {seconds:7.1f}  {peak:8.2f}", flush=True)


def first_with_moving_camera(benchmark: Benchmark) -> Sample:
    """Return the first sample whose camera moves; a static camera would not test the alignment of windows."""
    samples = (benchmark.read(clip) for clip in benchmark.clips)
    return next(sample for sample in samples if sample.scene.cameras.centers.std(dim=0).norm() > 0.1)


def write_pictures(sample: Sample, folder: Path) -> Path:
    """Write the frames of a clip as PNG files."""
    folder.mkdir()
    for number, image in enumerate(sample.clip.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:06d}.png")
    return folder


def run(model: str, pictures: Path, out: Path, variant: Variant) -> tuple[float, float]:
    """Return the seconds and the peak resident memory (GiB) of one reconstruction."""
    command = [sys.executable, "-m", "recon4d.cli", "reconstruct", str(pictures), "--out", str(out), "--fps", "30"]
    command += ["--model", model, *variant.options]
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
    """Return the peak memory of a process. `getrusage` would include this process, which starts it."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        found = None
    return int(found[1]) / 2**20 if found else 0.0


if __name__ == "__main__":
    main(tyro.cli(Arguments))
