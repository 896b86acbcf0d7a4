"""What a training says of itself: a line of JSON every so many steps, to trackers too, and a bar for people."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.train.config import LossWeights, TrainConfig
from recon4d.train.objective import Batch, terms_of
from recon4d.train.run_folder import LOG_NAME
from recon4d.train.trackers import open_tracker

if TYPE_CHECKING:
    from accelerate import Accelerator


class Progress:
    """The log of one process; only the main one writes. Numbers wait on the device until they are logged."""

    def __init__(self, config: TrainConfig, folder: Path, accelerator: "Accelerator", first_step: int) -> None:
        from tqdm import tqdm

        self._weights: LossWeights = config.losses
        self._terms = terms_of(config.losses)
        self._file = folder / LOG_NAME
        self._accelerator = accelerator
        self._is_quiet = not accelerator.is_main_process
        names = () if self._is_quiet else config.trackers
        self._trackers = [open_tracker(name, folder, config, first_step) for name in names]
        self._bar = tqdm(
            total=config.steps,
            initial=first_step,
            desc=config.model,
            unit="step",
            disable=self._is_quiet or not sys.stderr.isatty(),
        )
        self._means: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._clips, self._since = 0, time.perf_counter()
        self.loss = float("nan")

    def add(self, parts: list[Batch], means: Float[Tensor, "term"], norm: Float[Tensor, ""]) -> None:
        """Note a step, without asking the device for anything."""
        self._means.append(means)
        self._norms.append(norm.detach())
        self._clips += sum(len(part.asked) for part in parts) * self._accelerator.num_processes
        self._bar.update()

    def log(self, step: int, skipped: float) -> None:
        """Write the means since the last time, and how many steps were skipped in all."""
        means = torch.stack(self._means).nanmean(dim=0).tolist()
        self.loss = sum(getattr(self._weights, name) * value for name, value in zip(self._terms, means, strict=True))
        seconds = time.perf_counter() - self._since
        values = {"step": step, "loss": self.loss, **dict(zip(self._terms, means, strict=True))}
        values |= {"gradient": float(torch.stack(self._norms).nanmean()), "skipped": skipped}
        values |= {"clips_per_second": self._clips / seconds, "memory_gib": _peak_memory()}
        self._write(values)
        self._bar.set_postfix_str(
            f"loss {self.loss:.3f}, {values['clips_per_second']:.1f} clips/s, {values['memory_gib']:.1f} GiB"
        )
        self._means, self._norms = [], []
        self._clips, self._since = 0, time.perf_counter()

    def log_validation(self, step: int, score: float) -> None:
        """Write the objective on validation clips; its time does not count as training."""
        self._write({"step": step, "validation_loss": score})
        self._since = time.perf_counter()

    def close(self) -> None:
        """The last of it."""
        self._bar.close()
        for tracker in self._trackers:
            tracker.close()

    def _write(self, values: dict[str, float]) -> None:
        if self._is_quiet:
            return
        with self._file.open("a") as file:
            file.write(json.dumps(values) + "\n")
        numbers = {name: value for name, value in values.items() if name != "step"}
        for tracker in self._trackers:
            tracker.log(numbers, int(values["step"]))


def _peak_memory() -> float:
    """GiB at the most: of the GPU, or of this process where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
