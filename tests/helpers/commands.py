"""Run the command line in the process of the tests."""

import pytest

from recon4d.cli.main import main


def run(*arguments: object) -> int:
    """Run one command; return its exit code."""
    return main([str(argument) for argument in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with exit code 2; return its only line on stderr, warnings aside."""
    capsys.readouterr()
    assert run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("recon4d: ")
    return lines[0]
