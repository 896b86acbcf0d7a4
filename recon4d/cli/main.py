"""The command line: one command each in a file of its own, and one way to fail.

Heavy imports wait inside the commands, so that help shows at once. Whatever a person can cause by what they give is one
line on stderr and exit code 2, with nothing lost and nothing half written; set RECON4D_DEBUG=1 to see where it arose.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import tyro

from recon4d.cli.adapt import AdaptCommand
from recon4d.cli.calibrate import CalibrateCommand
from recon4d.cli.evaluate import EvaluateCommand
from recon4d.cli.export import ExportCommand
from recon4d.cli.info import InfoCommand
from recon4d.cli.models import ModelsCommand
from recon4d.cli.reconstruct import ReconstructCommand
from recon4d.cli.render import RenderCommand
from recon4d.cli.train import TrainCommand
from recon4d.cli.view import ViewCommand
from recon4d.errors import one_line

EXIT_BAD_INPUT = 2

Command = (
    Annotated[ReconstructCommand, tyro.conf.subcommand("reconstruct")]
    | Annotated[TrainCommand, tyro.conf.subcommand("train")]
    | Annotated[AdaptCommand, tyro.conf.subcommand("adapt")]
    | Annotated[CalibrateCommand, tyro.conf.subcommand("calibrate")]
    | Annotated[EvaluateCommand, tyro.conf.subcommand("evaluate")]
    | Annotated[RenderCommand, tyro.conf.subcommand("render")]
    | Annotated[ViewCommand, tyro.conf.subcommand("view")]
    | Annotated[ExportCommand, tyro.conf.subcommand("export")]
    | Annotated[InfoCommand, tyro.conf.subcommand("info")]
    | Annotated[ModelsCommand, tyro.conf.subcommand("models")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 where what was given cannot be done."""
    warnings.showwarning = _warn_in_one_line
    try:
        # Here too: values that a command's configuration refuses are refused while it is made.
        command = tyro.cli(
            Command,  # pyright: ignore[reportArgumentType]
            prog="recon4d",
            description="A moving 3D world from a video, in one forward pass.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        command.run()
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("RECON4D_DEBUG"):
            raise
        print(f"recon4d: {one_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("recon4d: interrupted, nothing was written", file=sys.stderr)
        return 130
    return 0


def _warn_in_one_line(message: Warning | str, *_: object, **__: object) -> None:
    print(f"recon4d: warning: {message}", file=sys.stderr)
