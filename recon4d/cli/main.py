"""Entry point of the command line: parses the arguments, runs one command, reports errors of the user in one line.

Heavy packages are imported inside the commands, so that help is shown at once. A `UserError` is printed as one line on
stderr with exit code 2; set RECON4D_DEBUG=1 to see its traceback. Every other exception is a defect of recon4d and
surfaces with its traceback.
"""

import contextlib
import inspect
import io
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from recon4d.cli.adapt import AdaptCommand
from recon4d.cli.app import AppCommand
from recon4d.cli.calibrate import CalibrateCommand
from recon4d.cli.evaluate import EvaluateCommand
from recon4d.cli.export import ExportCommand
from recon4d.cli.export_model import ExportModelCommand
from recon4d.cli.hints import add_hint
from recon4d.cli.info import InfoCommand
from recon4d.cli.locate import LocateCommand
from recon4d.cli.models import ModelsCommand
from recon4d.cli.progress import clear_progress
from recon4d.cli.reconstruct import ReconstructCommand
from recon4d.cli.reconstruct_options import spell_out_refine
from recon4d.cli.render import RenderCommand
from recon4d.cli.train import TrainCommand
from recon4d.cli.train_motions import TrainMotionsCommand
from recon4d.cli.view import ViewCommand
from recon4d.errors import UserError, one_line

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells report it."""

DEVELOPER_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
PACKAGE = Path(__file__).parents[1]
"""Folder of this package."""

Command = (
    Annotated[ReconstructCommand, tyro.conf.subcommand("reconstruct")]
    | Annotated[TrainCommand, tyro.conf.subcommand("train")]
    | Annotated[TrainMotionsCommand, tyro.conf.subcommand("train-motions")]
    | Annotated[AdaptCommand, tyro.conf.subcommand("adapt")]
    | Annotated[CalibrateCommand, tyro.conf.subcommand("calibrate")]
    | Annotated[EvaluateCommand, tyro.conf.subcommand("evaluate")]
    | Annotated[RenderCommand, tyro.conf.subcommand("render")]
    | Annotated[ViewCommand, tyro.conf.subcommand("view")]
    | Annotated[AppCommand, tyro.conf.subcommand("app")]
    | Annotated[ExportCommand, tyro.conf.subcommand("export")]
    | Annotated[ExportModelCommand, tyro.conf.subcommand("export-model")]
    | Annotated[LocateCommand, tyro.conf.subcommand("locate")]
    | Annotated[InfoCommand, tyro.conf.subcommand("info")]
    | Annotated[ModelsCommand, tyro.conf.subcommand("models")]
)
"""A command is a frozen dataclass of its options with `run()`, and `interrupted`: the line printed after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after `recon4d`; None takes them from the command line.

    Returns:
        The exit code: 0, 2 after a `UserError`, 130 after an interrupt, 141 if the reader of the output has closed it.
    """
    _let_idle_threads_sleep()
    warnings.showwarning = _warning_printer(None)
    command = None
    try:
        command = _parse(arguments)
        warnings.showwarning = _warning_printer(type(command))
        command.run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output, such as `head`, has closed the pipe: nobody reads the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except UserError as error:
        if os.environ.get("RECON4D_DEBUG"):
            raise
        message = one_line(error)
        print(f"recon4d: {message if command is None else add_hint(message, type(command))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"recon4d: {'interrupted' if command is None else command.interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _let_idle_threads_sleep() -> None:
    """Keep waiting threads of OpenMP from spinning, unless the environment says otherwise.

    Refinement consists of many short parallel steps. If other processes use the same cores, threads that spin at the
    end of each step make it much slower. OpenMP reads the variable when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _parse(arguments: Sequence[str] | None) -> Any:
    """Create a command from arguments; values that its configuration rejects raise the configuration's `UserError`."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                Command,  # pyright: ignore[reportArgumentType]
                prog="recon4d",
                description="Reconstruct cameras, depth, points and 3D tracks from a video or photos.",
                args=spell_out_refine(sys.argv[1:] if arguments is None else arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        # tyro prints a ValueError of a nested configuration in a box of several lines and exits.
        error: BaseException | None = stop
        while error is not None:
            if isinstance(error, UserError):
                raise error from None
            error = error.__context__
        sys.stderr.write(printed.getvalue())
        raise


def _warning_printer(command: type | None) -> Callable[..., None]:
    """Return a replacement for `warnings.showwarning` that prints one line without the place in the code.

    Warnings about deprecated code are for developers and are not shown unless RECON4D_DEBUG is set. Other warnings of
    libraries are shown under the name of the library.
    """

    def print_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, DEVELOPER_WARNINGS) and not os.environ.get("RECON4D_DEBUG"):
            return
        text = str(message)
        library = "torch" if "(Triggered internally at" in text else _library_of(_issuing_file())
        clear_progress()
        if library is not None:
            print(f"{library}: warning: {' '.join(text.split())}", file=sys.stderr)
        else:
            print(f"recon4d: warning: {text if command is None else add_hint(text, command)}", file=sys.stderr)

    return print_warning


def _issuing_file() -> str:
    """The source file whose code calls `warnings.warn`, whatever place it names as the origin of the warning."""
    files = []
    frame = inspect.currentframe()
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    # Python's module is between this one and the code in question.
    behind = itertools.dropwhile(lambda file: file != warnings.__file__, files)
    return next((file for file in behind if file != warnings.__file__), "")


def _library_of(filename: str) -> str | None:
    """Name of the installed package that a source file belongs to; None for this package and for scripts."""
    path = Path(filename)
    if path.is_relative_to(PACKAGE):
        return None
    for folder in ("site-packages", "dist-packages"):
        if folder in path.parts:
            return Path(path.parts[path.parts.index(folder) + 1]).stem
    return None
