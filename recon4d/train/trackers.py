"""Experiment trackers by name: TensorBoard and Weights & Biases."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.records import config_to_json
from recon4d.train.config import TrackerName, TrainConfig

TENSORBOARD_FOLDER = "tensorboard"
"""Folder in the run folder that holds TensorBoard's event files."""
WANDB_ID_FILE = "wandb_id"
"""File in the run folder with the id of the Weights & Biases run, so that a resumed run continues it."""


@runtime_checkable
class Tracker(Protocol):
    """Receives the numbers of a training log."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers.

        Args:
            values: Numbers by name.
            step: Number of completed steps.
        """
        ...

    def close(self) -> None:
        """Write all pending numbers and release resources."""
        ...


def open_tracker(name: TrackerName, folder: Path, config: TrainConfig, first_step: int) -> Tracker:
    """Open a tracker for a run.

    Args:
        name: Name of the tracker in `TRACKERS`.
        folder: Run folder.
        config: Configuration of the run, which some trackers store.
        first_step: Completed steps of the run; numbers of later steps from before a resume are replaced.

    Returns:
        The tracker.

    Raises:
        UserError: If the tracker's package is not installed.
    """
    try:
        return TRACKERS[name](folder, config, first_step)
    except ImportError as error:
        raise UserError(
            f"the tracker {name!r} is not installed ({error}); install it with: pip install -e '.[{name}]'"
        ) from error


class TensorBoard:
    """Curves for ``tensorboard --logdir`` of the run folder, or of a folder of many runs.

    Args:
        folder: Run folder.
        config: Configuration of the run; not stored.
        first_step: Completed steps of the run.
    """

    def __init__(self, folder: Path, config: TrainConfig, first_step: int) -> None:
        # PyTorch's writer needs the package tensorboard.
        from torch.utils.tensorboard import SummaryWriter

        # Hides the numbers of steps after the checkpoint, which a resumed run repeats.
        self._writer = SummaryWriter(
            str(folder / TENSORBOARD_FOLDER), purge_step=first_step + 1 if first_step else None
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of the Weights & Biases project ``recon4d``, named after the run folder.

    Args:
        folder: Run folder.
        config: Configuration of the run, which is stored with it.
        first_step: Completed steps of the run; not used.
    """

    def __init__(self, folder: Path, config: TrainConfig, first_step: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        id_file = folder / WANDB_ID_FILE
        self._run = wandb.init(
            project="recon4d",
            name=folder.resolve().name,
            dir=str(folder),
            config=config_to_json(config),
            id=id_file.read_text() if id_file.is_file() else None,
            resume="allow",
        )
        with os_errors_as_user_errors():
            id_file.write_text(self._run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, TrainConfig, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}
"""All trackers by name; a new tracker is a class and one line here."""
