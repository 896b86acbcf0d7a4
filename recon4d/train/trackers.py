"""Trackers of trainings by name: the numbers of the log, drawn by TensorBoard or Weights & Biases."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from recon4d.records import config_to_json
from recon4d.train.config import TrackerName, TrainConfig

TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb_id"
"""Holds the name under which Weights & Biases knows the run, so that a resumed one goes on in the same picture."""


@runtime_checkable
class Tracker(Protocol):
    """What takes the numbers of a log."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note `values` after `step` steps."""
        ...

    def close(self) -> None:
        """Write out what still waits."""
        ...


def open_tracker(name: TrackerName, folder: Path, config: TrainConfig, first_step: int) -> Tracker:
    """The tracker of the run in `folder`, which has done `first_step` steps.

    Raises ``ValueError`` where its package is not installed.
    """
    try:
        return TRACKERS[name](folder, config, first_step)
    except ImportError as error:
        raise ValueError(f"the tracker {name!r} is not installed ({error}); try: pip install {name}") from error


class TensorBoard:
    """Curves for ``tensorboard --logdir`` of the run's folder, or of the folder of many runs."""

    def __init__(self, folder: Path, config: TrainConfig, first_step: int) -> None:
        # PyTorch's writer, which needs the package tensorboard.
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the checkpoint that a run goes on from are done again: their old numbers are hidden.
        self._writer = SummaryWriter(
            str(folder / TENSORBOARD_FOLDER), purge_step=first_step + 1 if first_step else None
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project recon4d, named as its folder."""

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
        id_file.write_text(self._run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, TrainConfig, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}
"""Every tracker; a new one is a class and a line here."""
