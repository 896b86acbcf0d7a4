"""The code blocks of a page, and what can be said of a command without running it.

A block says after its fence what becomes of it:

- ``python`` is run as it stands, after the page's blocks before it and with their names;
- ``sh`` is checked, and then its `recon4d` commands and its scripts under `examples/` are run;
- ``sh parsed-only: REASON`` is checked and not run, for the reason given: a download, a GPU, hours, a display;
- ``text`` is what a command printed.

Whatever is neither is refused, and so is a command that nobody here can check.
"""

import contextlib
import functools
import io
import re
import runpy
import shlex
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
import tyro

from recon4d.cli.main import main

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
INFO = re.compile(r"(?P<kind>python|text|sh)|sh parsed-only: (?P<reason>\S.*)")
OF_THE_HOUSE = {"ruff", "pyright", "pytest"}
"""Programs that `.ci/run` runs on every change; `pip install` brings them."""
OF_OTHERS = {"ssh"}
"""Programs whose options are not ours to know."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    """Of its fence, from 1."""
    kind: str
    """python, text or sh."""
    reason: str | None
    """Why the commands are parsed only; None where they are run."""
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order. Raises ``ValueError`` for one of an unknown kind, or that does not end."""
    text, name = page.read_text(), page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    blocks = []
    for found in FENCE.finditer(text):
        line = text[: found.start()].count("\n") + 1
        info = INFO.fullmatch(found["info"])
        if info is None:
            raise ValueError(
                f"{name}:{line} opens with ```{found['info']}: wanted python, text, sh or sh parsed-only: WHY"
            )
        blocks.append(Block(name, line, info["kind"] or "sh", info["reason"], textwrap.dedent(found["text"])))
    if 2 * len(blocks) != len(re.findall(r"^ *```", text, re.MULTILINE)):
        raise ValueError(f"{name}: a fence is opened and not closed")
    return blocks


def commands_of(text: str) -> list[list[str]]:
    """The commands of a shell block as lists of words, without comments, joined lines and `&&`."""
    commands: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, "#"
        command: list[str] = []
        for word in [*lexer, "&&"]:
            if word != "&&":
                command.append(word)
            elif command:
                commands.append(command[1:] if command[0] == "time" else command)
                command = []
    return commands


def check_command(command: Sequence[str]) -> None:
    """Everything that is wrong with a command before it runs is a ``ValueError`` or an assertion."""
    match command:
        case ["recon4d", *arguments] | ["accelerate", "launch", "-m", "recon4d.cli", *arguments]:
            _parse_ours(arguments)
        case ["torchrun", "--nproc_per_node", _, "-m", "recon4d.cli", *arguments]:
            _parse_ours(arguments)
        case ["python", "-m", module, *arguments]:
            _parse_program(ROOT / f"{module.replace('.', '/')}.py", arguments)
        case ["python", script, *arguments]:
            _parse_program(ROOT / script, arguments)
        case ["pip", "install", "-e", *what]:
            (place,) = what
            name, _, extras = place.rstrip("]").partition("[")
            assert name == "."
            missing = set(filter(None, extras.split(","))) - set(_extras())
            assert not missing, f"there are no such extras: {missing}"
        case [program, *_] if program.startswith((".", "/")):
            assert (ROOT / program).is_file(), f"there is no {program}"
        case [program, *words] if program in OF_THE_HOUSE:
            assert any(need.startswith(program) for need in _extras()["dev"] + _extras()["test"])
            for path in (word for word in words if "/" in word):
                assert (ROOT / path).exists(), f"there is no {path}"
        case [program, *_] if program in OF_OTHERS:
            pass
        case _:
            raise ValueError(f"nobody knows how to check {shlex.join(command)}")


def check_options(command: Sequence[str]) -> None:
    """Of one of our commands that a sentence mentions, perhaps in part: it is there, and takes the options named."""
    named = {word.partition("=")[0] for word in command if word.startswith("--")}
    assert named <= _options(command[1]), f"recon4d {command[1]} does not take {named - _options(command[1])}"


@functools.cache
def _options(subcommand: str) -> set[str]:
    """Every option in the help of one of our commands."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as stop:
        main([subcommand, "--help"])
    assert stop.value.code == 0, f"there is no recon4d {subcommand}"
    return set(re.findall(r"--[a-z][a-z0-9.-]*", printed.getvalue()))


def is_run(command: Sequence[str]) -> bool:
    """Whether a command of a block without a reason is run: what installs, tests and tunnels is not."""
    return command[0] == "recon4d" or (command[0] == "python" and command[1].startswith("examples/"))


def run_command(command: Sequence[str]) -> None:
    """Run a command in this process and in the working directory, its globs expanded as a shell does it."""
    words = [word for given in command for word in (sorted(map(str, Path().glob(given))) if "*" in given else [given])]
    if words[0] == "recon4d":
        assert main(words[1:]) == 0, f"{shlex.join(command)} failed"
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")


def _parse_ours(arguments: Sequence[str]) -> None:
    """Through the command line itself, whose commands then do nothing."""
    from recon4d.cli.main import Command

    done: list[object] = []

    def run(command: object) -> None:
        done.append(command)

    with pytest.MonkeyPatch.context() as patch:
        for annotated in get_args(Command):
            patch.setattr(get_args(annotated)[0], "run", run)
        try:
            code = main(arguments)
        except SystemExit as stop:
            raise ValueError(f"recon4d {shlex.join(arguments)} is not a command") from stop
    assert code == 0
    assert len(done) == 1


def _parse_program(file: Path, arguments: Sequence[str]) -> None:
    """Through the program's own parser: it runs up to where its arguments are read."""
    parse, parsed = tyro.cli, []

    def parse_and_stop(kind: type, **options) -> None:
        parsed.append(parse(kind, args=list(arguments), **options))
        raise _ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tyro, "cli", parse_and_stop)
        try:
            runpy.run_path(str(file), run_name="__main__")
        except _ParsedError:
            assert parsed
        except SystemExit as stop:
            raise ValueError(f"{file.name} does not take {shlex.join(arguments)}") from stop
        else:
            raise ValueError(f"{file.name} reads no arguments")


class _ParsedError(Exception):
    """The arguments are read, and nothing is to be done with them."""


def _extras() -> dict[str, list[str]]:
    """What `pip install -e '.[extra]'` brings, by extra."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
