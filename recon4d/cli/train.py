"""`recon4d train`: train a model on synthetic scenes and data sets."""

import os
from dataclasses import dataclass
from pathlib import Path

from recon4d.cli.arguments import AttentionName, find_device, find_kernel
from recon4d.errors import UserError
from recon4d.train.config import TrainConfig


@dataclass(frozen=True)
class TrainCommand:
    """Train a model. Under `accelerate launch` or torchrun, the same command uses all of their processes."""

    config: TrainConfig
    out: Path | None = None
    """Folder of a new run; it must be new or empty."""
    resume: Path | None = None
    """Folder of a run to continue from its last complete checkpoint; its own configuration is used."""
    attention: AttentionName = "auto"
    """Kernel of attention: PyTorch's (sdpa) or that of xformers, which needs CUDA. auto: sdpa. It is no part of the
    run's configuration: a run can be resumed with another one."""

    @property
    def interrupted(self) -> str:
        """The line to print after an interrupt."""
        folder = self.out if self.resume is None else self.resume
        if folder is None or not folder.exists():
            return "interrupted, nothing was written"
        return f"interrupted; checkpoints stay in {folder}, continue with: recon4d train --resume {folder}"

    def run(self) -> None:
        """Train until the last step, or until a signal stops the run.

        Raises:
            UserError: If not exactly one of --out and --resume is given, or if the attention kernel, the configuration,
                a data set or the folder of the run is unsuitable.
        """
        from recon4d.train.checkpoints import latest_complete, list_checkpoints
        from recon4d.train.loop import train
        from recon4d.train.run_folder import CHECKPOINTS_NAME, begin_run, read_config

        if (self.out is None) == (self.resume is None):
            raise UserError("give either --out to start a new run or --resume to continue one")
        kernel = find_kernel(self.attention, find_device("auto"))
        resumed = None
        if self.resume is not None:
            folder, config = self.resume, read_config(self.resume)
            written = list_checkpoints(folder / CHECKPOINTS_NAME)
            resumed = latest_complete(folder / CHECKPOINTS_NAME)
            if written and (resumed is None or resumed.folder != written[-1].folder):
                action = "the run starts again" if resumed is None else f"the run continues from {resumed.folder}"
                print(f"checkpoint {written[-1].folder} is damaged or incomplete; {action}")
        else:
            assert self.out is not None
            folder, config = self.out, self.config
            if _is_main_process():
                begin_run(folder, config, kernel)
        outcome = train(config, folder, resumed, kernel)
        state = "finished" if outcome.is_finished else f"stopped (continue with --resume {folder})"
        if _is_main_process():
            print(
                f"{folder}: {state} after step {outcome.step}, loss {outcome.loss:.4f}: {outcome.checkpoint.model_file}"
            )


def _is_main_process() -> bool:
    """Whether this is the first process of the launcher, without initializing torch.distributed."""
    return os.environ.get("RANK", "0") == "0"
