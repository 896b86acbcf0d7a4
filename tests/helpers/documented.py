"""Code blocks of documentation pages, and checks of commands that do not run them.

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
OF_THE_HOUSE = {"ruff", "pyright", "pytest", "pre-commit"}
"""Programs that check every change; `pip install` provides them."""
OF_OTHERS = {"blender", "docker", "ssh"}
"""Programs whose options are not checked."""


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page."""

    page: str
    line: int
    """Line number of its fence, from 1."""
    kind: str
    """Language: python, text or sh."""
    reason: str | None
    """Why the commands are only parsed; None if they are run."""
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in order. Raises ``ValueError`` for unknown languages and unclosed fences."""
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
    """Split a shell block into commands, each a list of words; comments, line continuations and `&&` are resolved."""
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
    """Check a command without running it. Raises ``ValueError`` or ``AssertionError`` if it is invalid."""
    match command:
        case ["recon4d", *arguments] | ["accelerate", "launch", "-m", "recon4d.cli", *arguments]:
            _parse_ours(arguments)
        case ["torchrun", "--nproc_per_node", _, "-m", "recon4d.cli", *arguments]:
            _parse_ours(arguments)
        case ["python", "-m", "zensical", "build" | "serve"] | ["python", "-m", "zensical", "build", "--strict"]:
            assert any(need.startswith("zensical") for need in _extras()["docs"])
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
    """Check that a command mentioned in prose, perhaps in part, exists and accepts the options."""
    named = {word.partition("=")[0] for word in command if word.startswith("--")}
    assert named <= _options(command[1]), f"recon4d {command[1]} does not take {named - _options(command[1])}"


@functools.cache
def _options(subcommand: str) -> set[str]:
    """Return every option in the help of a recon4d command."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as stop:
        main([subcommand, "--help"])
    assert stop.value.code == 0, f"there is no recon4d {subcommand}"
    return set(re.findall(r"--[a-z][a-z0-9.-]*", printed.getvalue()))


def is_run(command: Sequence[str]) -> bool:
    """Whether a command is run; commands that install, test or open tunnels are not."""
    return command[0] == "recon4d" or (command[0] == "python" and command[1].startswith("examples/"))


def run_command(command: Sequence[str]) -> None:
    """Run a command in this process in the working directory, with globs expanded like in a shell."""
    words = [word for given in command for word in (sorted(map(str, Path().glob(given))) if "*" in given else [given])]
    if words[0] == "recon4d":
        assert main(words[1:]) == 0, f"{shlex.join(command)} failed"
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")


def _parse_ours(arguments: Sequence[str]) -> None:
    """Parse the arguments with the command line itself, with the commands disabled."""
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
    """Parse the arguments with the program's own parser and stop there."""
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
    """Raised after the arguments are parsed, to stop the program."""


def _extras() -> dict[str, list[str]]:
    """Return the packages that `pip install -e '.[extra]'` installs, by extra."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
