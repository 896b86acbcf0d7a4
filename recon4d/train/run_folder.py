"""The folder of a training run: names of its files, and its configuration and environment."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from recon4d import __version__
from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.io.files import atomic_file
from recon4d.layers import Kernel
from recon4d.records import config_from_json, config_to_json
from recon4d.train.config import TrainConfig

CONFIG_NAME = "config.json"
"""Configuration of the run. It is written last by `begin_run`: a folder with this file holds a run."""
ABOUT_NAME = "about.json"
"""Versions, device, attention kernel and commit that the run began with."""
LOG_NAME = "log.jsonl"
"""Log of the run, one JSON object a line."""
CHECKPOINTS_NAME = "checkpoints"
"""Folder of the run's checkpoints."""


def begin_run(folder: Path, config: TrainConfig, kernel: Kernel = "sdpa") -> None:
    """Create the folder of a run and write its configuration and environment.

    A folder in which an earlier call was interrupted can be used again.

    Args:
        folder: Run folder; it must be new or empty.
        config: Configuration of the run.
        kernel: Attention kernel that the run begins with.

    Raises:
        UserError: If the folder holds other files, or cannot be written.
    """
    with os_errors_as_user_errors():
        if folder.is_dir() and not all(map(_is_leftover, folder.iterdir())):
            raise UserError(f"{folder} is not empty; choose a new folder, or resume the run in it")
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / ABOUT_NAME, _about(kernel))
        _write_json(folder / CONFIG_NAME, config_to_json(config))


def read_config(folder: Path) -> TrainConfig:
    """Read the configuration of a run.

    Args:
        folder: Run folder.

    Returns:
        The configuration that the run began with.

    Raises:
        UserError: If the folder holds no run, or its configuration is damaged or of an unknown version.
    """
    file = folder / CONFIG_NAME
    if not file.is_file():
        raise UserError(f"{folder} is not a training run: it has no {CONFIG_NAME}")
    with os_errors_as_user_errors():
        content = file.read_bytes()
    try:
        values = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    return config_from_json(TrainConfig, values)


def _is_leftover(path: Path) -> bool:
    """Return whether a file was written by a `begin_run` that was interrupted before the run existed."""
    return path.name == ABOUT_NAME or path.name.startswith((f".{ABOUT_NAME}.", f".{CONFIG_NAME}."))


def _write_json(path: Path, values: Any) -> None:
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(values, indent=1))


def _about(kernel: Kernel) -> dict[str, str]:
    return {
        "recon4d": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "attention": kernel,
        "commit": _commit(),
    }


def _commit() -> str:
    """Return the commit of the running source, with "+" if files differ from it; empty outside a repository."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, check=True, capture_output=True, text=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=here, check=True, capture_output=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changes else "")
