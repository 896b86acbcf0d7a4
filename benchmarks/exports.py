"""Seconds and sizes of recordings and exports of a result: ``python -m benchmarks.exports out/dog``.

The first rows are recordings of the viewer: with the default budget, with all points of each time, and without budget.
Times are the median of processor seconds, because other programs may run beside this one.
"""

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

VIEWS = {
    "view": [],
    "view, all points": ["--no-movers-only"],
    "view, no budget": ["--no-movers-only", "--max-points", "100000000", "--max-frame-points", "100000000"],
}
"""Options of `recon4d view` by the name of the row."""


@dataclass(frozen=True)
class Arguments:
    """Measure the viewer and the exporters."""

    results: tyro.conf.Positional[Path]
    """Folder that `recon4d reconstruct` wrote."""
    to: tuple[str, ...] = (
        "ply",
        "glb",
        "splats",
        "tsdf",
        "poisson",
        "colmap",
        "nerfstudio",
        "depth-png",
        "depth-exr",
        "npz",
    )
    """Formats to export."""
    repeats: int = 3
    """Number of runs of each row, after one that is not counted."""


def main(arguments: Arguments) -> None:
    """Print a row for each recording and format."""
    from recon4d.cli.main import main as recon4d

    print(f"{'':20}{'seconds':>9}{'MB':>9}{'files':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for name, options in VIEWS.items():
            file = Path(folder) / "view.rrd"
            command = ["view", str(arguments.results), "--save", str(file), "--overwrite", *options]
            _print(name, _seconds(lambda command=command: recon4d(command), arguments.repeats), [file])
        for name in arguments.to:
            out = Path(folder) / name
            command = ["export", str(arguments.results), "--to", name, "--out", str(out), "--overwrite"]
            seconds = _seconds(lambda command=command: recon4d(command), arguments.repeats)
            _print(name, seconds, [path for path in out.rglob("*") if path.is_file()])


def _seconds(run: Callable[[], int], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            assert run() == 0
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:])


def _print(name: str, seconds: float, files: list[Path]) -> None:
    size = sum(file.stat().st_size for file in files)
    print(f"{name:20}{seconds:9.2f}{size / 1e6:9.1f}{len(files):7}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
