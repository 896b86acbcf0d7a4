"""Mutated files of every kind that is read give a right result or an error that names the file, and nothing else.

`python -m benchmarks.fuzz` reads more mutants, with limits of time and memory.
"""

import time
from pathlib import Path

import pytest

from benchmarks.fuzz import FAILURES, MAX_SECONDS, read_mutant, write_mutant, write_valid
from benchmarks.fuzz_samples import Target
from benchmarks.fuzz_targets import targets

MUTANTS = 5
"""Mutants of each kind: few, for a test of seconds."""
TARGETS = targets()


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a valid folder of each kind, which is read without an error."""
    return write_valid(TARGETS, tmp_path_factory.mktemp("valid"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_mutants_are_read_rightly_or_refused_by_name(target: Target, valid: dict[str, Path], tmp_path: Path) -> None:
    for seed in range(MUTANTS):
        file = write_mutant(target, valid[target.name], tmp_path / "mutant", seed)
        started = time.monotonic()
        outcome = read_mutant(target, tmp_path / "mutant", file)
        assert outcome.kind not in FAILURES, f"mutant {seed} of {target.name}: {outcome.kind}: {outcome.detail}"
        assert time.monotonic() - started < MAX_SECONDS
