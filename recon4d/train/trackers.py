"""Experiment trackers by name: TensorBoard and Weights & Biases, through Accelerate."""

from pathlib import Path
from typing import TYPE_CHECKING

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.records import config_to_json
from recon4d.train.config import TrackerName, TrainConfig

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

TENSORBOARD_FOLDER = "tensorboard"
"""Folder in the run folder that holds TensorBoard's event files."""
WANDB_ID_FILE = "wandb_id"
"""File in the run folder with the id of the Weights & Biases run, so that a resumed run continues it."""


def open_tracker(name: TrackerName, folder: Path, config: TrainConfig, first_step: int) -> "GeneralTracker":
    """Open a tracker for a run; its `log` records numbers of a step, and its `finish` ends it.

    TensorBoard shows the run folder, or a folder of many runs. Weights & Biases shows a run of the project
    ``recon4d``, named after the run folder.

    Args:
        name: Name of the tracker.
        folder: Run folder.
        config: Configuration of the run, which Weights & Biases stores.
        first_step: Completed steps of the run; TensorBoard hides numbers of later steps from before a resume.

    Returns:
        The tracker.

    Raises:
        UserError: If the tracker's package is not installed.
    """
    try:
        return _open_wandb(folder, config) if name == "wandb" else _open_tensorboard(folder, first_step)
    except ImportError as error:
        raise UserError(
            f"the tracker {name!r} is not installed ({error}); install it with: pip install -e '.[{name}]'"
        ) from error


def _open_tensorboard(folder: Path, first_step: int) -> "TensorBoardTracker":
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker(TENSORBOARD_FOLDER, folder, purge_step=first_step + 1 if first_step else None)
    tracker.start()
    return tracker


def _open_wandb(folder: Path, config: TrainConfig) -> "WandBTracker":
    from accelerate.tracking import WandBTracker

    id_file = folder / WANDB_ID_FILE
    tracker = WandBTracker(
        "recon4d",
        name=folder.resolve().name,
        dir=str(folder),
        config=config_to_json(config),
        id=id_file.read_text() if id_file.is_file() else None,
        resume="allow",
    )
    tracker.start()
    with os_errors_as_user_errors():
        id_file.write_text(tracker.run.id)
    return tracker
