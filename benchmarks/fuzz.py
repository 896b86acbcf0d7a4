"""Reading of mutated files of every kind: ``python -m benchmarks.fuzz --minutes 5 --mutants 10000``.

A mutant is a valid folder of a kind of input in which one file was mutated. Reading it must give a right result or a
`UserError` that names the file or folder. Everything else is a failure: another exception, a crash, a result that is
nonsense, more than 20 s, or more than 1 GB of memory. Failures are printed with the command that repeats them.
"""

import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Literal

import torch
import tyro

from benchmarks.fuzz_samples import Target, sample
from benchmarks.fuzz_targets import targets
from benchmarks.mutation import mutate
from recon4d.errors import DataError, UserError, one_line

MAX_SECONDS = 20.0
"""Time after which reading a mutant counts as a hang."""
MAX_GROWTH = 10**9
"""Growth of the memory of a process in bytes, over that of reading valid files, that counts as a failure."""

Kind = Literal["right", "refused", "exception", "unnamed", "nonsense", "hang", "memory", "crash"]
FAILURES: tuple[Kind, ...] = ("exception", "unnamed", "nonsense", "hang", "memory", "crash")


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    kind: Kind
    """Right result, clear refusal, or the kind of failure."""
    detail: str = ""
    """Message or place of the failure."""


@dataclass(frozen=True)
class Arguments:
    """Read mutated files of every kind."""

    minutes: float = 2.0
    """Time after which no further mutant is read."""
    mutants: int = 10_000
    """Largest number of mutants, over all kinds."""
    seed: int = 0
    """Number of the first mutant of each kind."""
    only: str = ""
    """Read only kinds whose name contains this."""


@dataclass
class Tally:
    """Counts of one target."""

    outcomes: Counter = field(default_factory=Counter)
    failures: dict[str, int] = field(default_factory=dict)
    """Description of each different failure and the first seed that causes it."""


def write_mutant(target: Target, valid: Path, folder: Path, seed: int) -> Path:
    """Copy a valid folder and mutate one of its files.

    Args:
        target: The kind of input.
        valid: A folder that ``target.make`` wrote.
        folder: The folder to write; an existing one is replaced.
        seed: Number of the mutant.

    Returns:
        The mutated file.
    """
    random = Random(f"{target.name} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid, folder)
    files = sorted({file for pattern in target.files for file in folder.rglob(pattern) if file.is_file()})
    file = random.choice(files)
    file.write_bytes(mutate(file.read_bytes(), file.suffix.lower(), random))
    return file


def read_mutant(target: Target, folder: Path, file: Path) -> Outcome:
    """Read a folder with a mutated file in this process.

    Args:
        target: The kind of input.
        folder: The folder.
        file: The mutated file.

    Returns:
        The outcome; hangs and crashes are not found here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(folder)
    except DataError:
        return Outcome("refused")  # it names the sequence and a file of it
    except UserError as error:
        message = one_line(error)
        is_named = file.name in message or file.stem in message or str(folder) in message
        return Outcome("refused") if is_named else Outcome("unnamed", message)
    except AssertionError as error:
        return Outcome("nonsense", f"{one_line(error)} {_place(error)}")
    except Exception as error:  # every other exception is what this program looks for
        return Outcome("exception", f"{type(error).__name__}: {one_line(error)[:100]} {_place(error)}")
    return Outcome("right")


def _place(error: BaseException) -> str:
    """The innermost place in this repository at which an exception occurred."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return f"({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


class Reader:
    """A process that reads mutants, replaced when it hangs, crashes or has grown."""

    def __init__(self, valid: dict[str, Path], folder: Path) -> None:
        self._arguments = (valid, folder)
        self._start()

    def read(self, name: str, seed: int) -> Outcome:
        """Read one mutant of the kind `name`."""
        self._connection.send((name, seed))
        if not self._connection.poll(MAX_SECONDS):
            self._restart()
            return Outcome("hang", f"longer than {MAX_SECONDS:.0f} s")
        try:
            outcome, growth = self._connection.recv()
        except EOFError:
            code = self._restart()
            return Outcome("crash", f"the process ended with {code}")
        if growth > MAX_GROWTH:
            self._restart()
            return Outcome("memory", f"{growth / 1e9:.1f} GB")
        return outcome

    def close(self) -> int | None:
        """End the process."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode

    def _restart(self) -> int | None:
        self._process.join(0.5)
        code = self.close()
        self._start()
        return code

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # the threads of FFmpeg do not survive a fork
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, *self._arguments), daemon=True)
        self._process.start()
        other.close()
        self._connection.recv()  # it is ready


def _serve(connection: Connection, valid: dict[str, Path], folder: Path) -> None:
    """Read the mutants that the parent process asks for."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # messages of codecs
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    sample()
    kinds = {target.name: target for target in targets()}
    before = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.send("ready")
    while True:
        name, seed = connection.recv()
        target = kinds[name]
        file = write_mutant(target, valid[name], folder, seed)
        outcome = read_mutant(target, folder, file)
        connection.send((outcome, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def write_valid(kinds: list[Target], root: Path) -> dict[str, Path]:
    """Write a valid folder of each kind, and check that it is read.

    Args:
        kinds: The kinds of input.
        root: The folder to write to.

    Returns:
        Folder of each kind by its name.
    """
    folders = {}
    for target in kinds:
        folders[target.name] = root / target.name.replace(" ", "_").replace(".", "_")
        folders[target.name].mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.make(folders[target.name])
            copied = root / "checked"
            shutil.copytree(folders[target.name], copied)
            target.read(copied)
            shutil.rmtree(copied)
    return folders


def main() -> None:
    """Read mutants in turn of all kinds and print a table."""
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(1)
    kinds = [target for target in targets() if arguments.only.lower() in target.name.lower()]
    tallies = {target.name: Tally() for target in kinds}
    sample()
    with tempfile.TemporaryDirectory() as temporary:
        valid = write_valid(kinds, Path(temporary))
        reader = Reader(valid, Path(temporary) / "mutant")
        end, count = time.monotonic() + 60 * arguments.minutes, 0
        while time.monotonic() < end and count < arguments.mutants:
            index, seed = count % len(kinds), arguments.seed + count // len(kinds)
            outcome = reader.read(kinds[index].name, seed)
            count += 1
            tally = tallies[kinds[index].name]
            tally.outcomes[outcome.kind] += 1
            if outcome.kind in FAILURES:
                tally.failures.setdefault(f"{outcome.kind}: {outcome.detail}", seed)
        reader.close()
    num_failures = _print_table(tallies)
    raise SystemExit(num_failures > 0)


def _print_table(tallies: dict[str, Tally]) -> int:
    """Print counts and failures, and return the number of failures."""
    width = max(map(len, tallies))
    print(f"{'kind':<{width}}  mutants  right  refused  failures")
    totals: Counter = Counter()
    for name, tally in tallies.items():
        _print_row(f"{name:<{width}}", tally.outcomes)
        totals += tally.outcomes
    _print_row(f"{'all':<{width}}", totals)
    for name, tally in tallies.items():
        for failure, seed in tally.failures.items():
            print(f"{name}: {failure}; repeat with --only {name!r} --seed {seed} --mutants 1")
    return sum(totals[kind] for kind in FAILURES)


def _print_row(name: str, outcomes: Counter) -> None:
    failures = sum(outcomes[kind] for kind in FAILURES)
    print(f"{name}  {outcomes.total():7d}  {outcomes['right']:5d}  {outcomes['refused']:7d}  {failures:8d}")


if __name__ == "__main__":
    main()
