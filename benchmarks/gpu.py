"""What a machine with a GPU should show, in one call of less than 8 minutes: ``python -m benchmarks.gpu --out gpu/``.

Each section is a command in a process of its own with a time limit. A section that fails or takes too long is recorded,
with what it printed until then, and the others still run. ``gpu.json`` and ``gpu.md`` in the output folder hold the
results. ``--dry-run`` runs the same sections with tiny networks on the CPU.
"""

import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

ROOT = Path(__file__).parents[1]
TOTAL_SECONDS = 465.0
"""Time of all sections together."""
TAIL_LINES = 30
"""Number of lines that are kept of what a section printed."""

REFERENCE: dict[tuple[str, int], tuple[float, float | None]] = {
    ("reference code", 1): (0.080, 5.4),
    ("reference code", 10): (0.141, 7.2),
    ("reference code", 50): (0.928, 14.9),
    ("reference code", 200): (9.37, 43.9),
    ("lean", 1): (0.043, 3.1),
    ("lean", 10): (0.089, 3.4),
    ("lean", 50): (0.795, 4.8),
    ("lean", 200): (8.79, 10.1),
    ("compiled", 1): (0.026, None),
    ("compiled", 10): (0.060, None),
    ("compiled", 50): (0.664, None),
    ("compiled", 200): (8.28, 9.1),
    ("thinned", 50): (0.453, None),
    ("thinned", 200): (3.22, None),
}
"""Seconds and peak GiB of the aggregator of VGGT-1B in bfloat16 for numbers of frames of 518 x 336 pixels, measured on
one H200 with torch 2.11: its published code, and a prototype of the optimizations of `benchmarks.inference`."""

REFERENCE_NOTE = (
    "Figures of the published code and of a prototype are those of VGGT-1B on one H200, the aggregator alone in "
    "bfloat16."
)
DRY_RUN_NOTE = "A dry run with tiny networks on the CPU: the figures say nothing, and the references do not apply."

Status = Literal["ok", "failed", "too slow", "not started"]
Row = dict[str, Any]
"""A line of a table: numbers and texts by the name of their column."""


@dataclass(frozen=True)
class Arguments:
    """Run all sections and write their results."""

    out: Path
    """Output folder; ``gpu.json`` and ``gpu.md`` in it are replaced."""
    dry_run: bool = False
    """Run the sections with tiny networks on the CPU."""
    only: tuple[str, ...] = ()
    """Names of the sections to run; all if none is given."""


@dataclass(frozen=True)
class Section:
    """A command, and how its output becomes a table."""

    name: str
    command: list[str]
    """Arguments of Python."""
    limit: float
    """Time limit in seconds."""
    parse: Callable[[str], list[Row]]


@dataclass(frozen=True)
class SectionResult:
    """What became of a section."""

    name: str
    command: str
    status: Status
    seconds: float
    rows: list[Row] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)
    """The last lines that were printed, if the section failed or its output has no table."""


def sections(dry_run: bool) -> list[Section]:
    """List the sections; their limits add up to less than `TOTAL_SECONDS`."""
    model, frames, size = ("recon4d_tiny", ["1", "2"], ["64", "96"]) if dry_run else ("vggt_1b", [], ["336", "518"])
    frames = frames or ["1", "10", "50", "200"]
    tests = ["tests/layers/test_attention.py"] if dry_run else ["tests"]
    inference = ["-m", "benchmarks.inference", "--model", model, "--frames", *frames, "--size", *size]
    inference += ["--aggregator-alone", "--repeats", "1" if dry_run else "2", "--device", "cpu" if dry_run else "cuda"]
    train = ["-m", "benchmarks.train", "--device", "cpu" if dry_run else "cuda"]
    train += ["--model", "recon4d_tiny" if dry_run else "recon4d_small"]
    if dry_run:
        train += ["--steps", "1", "--warm-up", "0", "--data.shapes", "2x32x32"]
    modes = ("lean", "thinned") if dry_run else ("lean", "thinned", "compiled")
    limits = {"lean": 110.0, "thinned": 70.0, "compiled": 120.0}
    return [
        Section("tests", ["-m", "pytest", "-m", "gpu", "-n", "0", *tests], 80.0, parse_tests),
        *(
            Section(f"inference, {mode}", [*inference, "--modes", mode], limits[mode], parse_inference)
            for mode in modes
        ),
        Section("training", train, 80.0, parse_training),
    ]


def parse_tests(printed: str) -> list[Row]:
    """Read how many tests passed, failed or were skipped from the last line of pytest."""
    lines = [line for line in printed.splitlines() if re.search(r"\d+ (passed|failed|skipped|deselected)", line)]
    counts = re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", lines[-1]) if lines else []
    return [{"tests": result, "number": int(number)} for number, result in counts]


def parse_inference(printed: str) -> list[Row]:
    """Read the table of `benchmarks.inference`, and set the reference figures beside it."""
    pattern = r"^ *(\d+) +(\w+) +([\d.]+) +[\d.]+ +([\d.]+) +([\d.]+|-) +([\d.]+) +(\d+) %"
    rows = []
    for found in re.finditer(pattern, printed, re.MULTILINE):
        frames, mode = int(found[1]), found[2]
        row: Row = {"frames": frames, "mode": mode, "seconds": float(found[3])}
        row |= {"planned GiB": float(found[4]), "peak GiB": None if found[5] == "-" else float(found[5])}
        row |= {"TFLOP/s": float(found[6]), "attention %": int(found[7])}
        for name in ("reference code", mode):
            seconds, gib = REFERENCE.get((name, frames), (None, None))
            label = "reference code" if name == "reference code" else "prototype"
            row |= {f"{label} s": seconds, f"{label} GiB": gib}
        rows.append(row)
    return rows


def parse_training(printed: str) -> list[Row]:
    """Read the lines of `benchmarks.train`."""
    units = r"(clips a second|TFLOP/s|GiB)"
    found = re.findall(rf"^(batches|step|both|memory|in all) +([\d.]+) {units}(.*)$", printed, re.MULTILINE)
    return [{"what": what, "value": float(value), "unit": unit + rest} for what, value, unit, rest in found]


def run_section(section: Section, remaining: float) -> SectionResult:
    """Run a section; it gets its own limit, or the remaining time if that is less."""
    command = "python " + " ".join(section.command)
    limit = min(section.limit, remaining)
    if limit < 1:
        return SectionResult(section.name, command, "not started", 0.0)
    started = time.perf_counter()
    status: Status = "ok"
    process = subprocess.Popen(
        [sys.executable, *section.command], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        printed, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        printed, _ = process.communicate()
        status = "too slow"
    rows = section.parse(printed)
    if status == "ok" and (process.returncode or not rows):
        status = "failed"
    tail = [] if status == "ok" else printed.splitlines()[-TAIL_LINES:]
    return SectionResult(section.name, command, status, time.perf_counter() - started, rows, tail)


def describe_machine() -> Row:
    """Describe the GPU and the software."""
    machine: Row = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if not torch.cuda.is_available():
        return {"device": "none", **machine}
    properties = torch.cuda.get_device_properties(0)
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    return {"device": properties.name, "memory": memory, **machine, "cudnn": torch.backends.cudnn.version()}


def markdown_page(machine: Row, results: Sequence[SectionResult], dry_run: bool) -> str:
    """Write the results as a page: a table for each section, and what failed."""
    lines = ["# GPU", "", ", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    lines += [DRY_RUN_NOTE if dry_run else REFERENCE_NOTE, ""]
    lines += _table([{"section": one.name, "result": one.status, "seconds": round(one.seconds, 1)} for one in results])
    for one in results:
        lines += ["", f"## {one.name}", "", f"`{one.command}`: {one.status} after {one.seconds:.1f} s", ""]
        lines += _table(one.rows)
        if one.tail:
            lines += ["", "```text", *one.tail, "```"]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    cells = [list(rows[0])] + [["-" if value is None else str(value) for value in row.values()] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def main(arguments: Arguments) -> int:
    """Run the sections, write the files after each, and return 1 if a section did not succeed."""
    if not arguments.dry_run and not torch.cuda.is_available():
        print("there is no CUDA device here; --dry-run runs tiny networks on the CPU", file=sys.stderr)
        return 2
    chosen = [one for one in sections(arguments.dry_run) if not arguments.only or one.name in arguments.only]
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine, results, stop = describe_machine(), [], time.perf_counter() + TOTAL_SECONDS
    for section in chosen:
        results.append(run_section(section, stop - time.perf_counter()))
        print(f"{section.name}: {results[-1].status} after {results[-1].seconds:.1f} s", flush=True)
        content = {"machine": machine, "dry_run": arguments.dry_run, "sections": [asdict(one) for one in results]}
        (arguments.out / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
        (arguments.out / "gpu.md").write_text(markdown_page(machine, results, arguments.dry_run))
    return int(any(one.status != "ok" for one in results))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))))
