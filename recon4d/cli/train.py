"""`recon4d train`: a model learns from worlds and data sets."""

from dataclasses import dataclass
from pathlib import Path

from recon4d.train.config import TrainConfig


@dataclass(frozen=True)
class TrainCommand:
    """Train a model; the same command under `accelerate launch` or torchrun uses all their processes."""

    config: TrainConfig
    out: Path | None = None
    """Folder of the run; it must be new or empty."""
    resume: Path | None = None
    """Folder of a run to go on with, exactly where its last whole checkpoint is; its own configuration counts."""

    def run(self) -> None:
        from recon4d.train.checkpoints import checkpoints, latest_whole
        from recon4d.train.loop import train
        from recon4d.train.run_folder import CHECKPOINTS_NAME, begin_run, read_config

        if (self.out is None) == (self.resume is None):
            raise ValueError("give either --out, for a new run, or --resume, to go on with one")
        resumed = None
        if self.resume is not None:
            folder, config = self.resume, read_config(self.resume)
            written = checkpoints(folder / CHECKPOINTS_NAME)
            resumed = latest_whole(folder / CHECKPOINTS_NAME)
            if written and (resumed is None or resumed.folder != written[-1].folder):
                taken = "the run begins anew" if resumed is None else f"it goes on from {resumed.folder}"
                print(f"checkpoint {written[-1].folder} is damaged or incomplete; {taken}")
        else:
            assert self.out is not None
            folder, config = self.out, self.config
            if _is_main_process():
                begin_run(folder, config)
        outcome = train(config, folder, resumed)
        how = "finished" if outcome.finished else f"stopped; go on with --resume {folder}"
        if _is_main_process():
            print(
                f"{folder}: {how} after step {outcome.step}, loss {outcome.loss:.4f}: {outcome.checkpoint.model_file}"
            )


def _is_main_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"
