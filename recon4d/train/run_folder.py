"""The folder of a training: its configuration, the versions it ran with and the commit come first."""

import json
import platform
import subprocess
from pathlib import Path

import torch

from recon4d import __version__
from recon4d.records import config_from_json, config_to_json
from recon4d.train.config import TrainConfig

CONFIG_NAME = "config.json"
ABOUT_NAME = "about.json"
LOG_NAME = "log.jsonl"
CHECKPOINTS_NAME = "checkpoints"


def begin_run(folder: Path, config: TrainConfig) -> None:
    """Make the folder and write what the run is. Raises ``FileExistsError`` where a run lies there already."""
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give a new folder, or go on with --resume {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).write_text(json.dumps(config_to_json(config), indent=1))
    (folder / ABOUT_NAME).write_text(json.dumps(_about(), indent=1))


def read_config(folder: Path) -> TrainConfig:
    """The configuration of a run. Raises ``FileNotFoundError``, or ``ValueError`` where this version cannot read it."""
    file = folder / CONFIG_NAME
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no training: it has no {CONFIG_NAME}")
    return config_from_json(TrainConfig, json.loads(file.read_text()))


def _about() -> dict[str, str]:
    return {
        "recon4d": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of the source that runs, with a plus where it was changed; empty outside a repository."""
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
