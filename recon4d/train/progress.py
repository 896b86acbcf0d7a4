"""Logging of a training run: log.jsonl, experiment trackers, a progress bar and messages on the console."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon4d.datasets.mixture import SkippedSequence, describe_skipped
from recon4d.errors import os_errors_as_user_errors
from recon4d.io.files import atomic_file
from recon4d.train.config import LossWeights, TrainConfig
from recon4d.train.objective import Batch, term_names
from recon4d.train.run_folder import LOG_NAME
from recon4d.train.trackers import open_tracker

if TYPE_CHECKING:
    from accelerate import Accelerator


class Progress:
    """The log of one process; only the main process writes.

    Numbers of single steps stay on the device until they are logged. When a run is resumed, lines of steps after the
    checkpoint are removed from the log, because these steps are repeated.

    Args:
        config: Configuration of the run.
        folder: Run folder.
        accelerator: The process group.
        first_step: Completed steps of the run.

    Raises:
        UserError: If the package of a tracker is not installed, or the log cannot be written.
    """

    def __init__(self, config: TrainConfig, folder: Path, accelerator: "Accelerator", first_step: int) -> None:
        from tqdm import tqdm

        self._weights: LossWeights = config.losses
        self._terms = term_names(config.losses)
        self._file = folder / LOG_NAME
        self._accelerator = accelerator
        self._is_quiet = not accelerator.is_main_process
        names = () if self._is_quiet else config.trackers
        self._trackers = [open_tracker(name, folder, config, first_step) for name in names]
        if not self._is_quiet:
            drop_later_lines(self._file, first_step)
        self._bar = tqdm(
            total=config.steps,
            initial=first_step,
            desc=config.model,
            unit="step",
            disable=self._is_quiet or not sys.stderr.isatty(),
        )
        self._means: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._num_clips, self._since = 0, time.perf_counter()
        self._logged_sequences: set[str] = set()
        self.loss = float("nan")

    def add(self, parts: list[Batch], means: Float[Tensor, "term"], norm: Float[Tensor, ""]) -> None:
        """Record a step, without a synchronization with the device.

        Args:
            parts: Micro-batches of this process.
            means: Mean of each loss term over all processes.
            norm: Norm of the gradient before clipping.
        """
        self._means.append(means)
        self._norms.append(norm.detach())
        self._num_clips += sum(len(part.anchors) for part in parts) * self._accelerator.num_processes
        self._bar.update()

    def log(self, step: int, skipped: float) -> None:
        """Log the means over all steps since the last call.

        Args:
            step: Number of completed steps.
            skipped: Number of steps with non-finite gradients so far.
        """
        means = torch.stack(self._means).nanmean(dim=0).tolist()
        self.loss = sum(getattr(self._weights, name) * value for name, value in zip(self._terms, means, strict=True))
        seconds = time.perf_counter() - self._since
        values = {"step": step, "loss": self.loss, **dict(zip(self._terms, means, strict=True))}
        values |= {"gradient": float(torch.stack(self._norms).nanmean()), "skipped": skipped}
        values |= {"clips_per_second": self._num_clips / seconds, "memory_gib": peak_memory()}
        self._log_numbers(values)
        self._bar.set_postfix_str(
            f"loss {self.loss:.3f}, {values['clips_per_second']:.1f} clips/s, {values['memory_gib']:.1f} GiB"
        )
        self._means, self._norms = [], []
        self._num_clips, self._since = 0, time.perf_counter()

    def log_validation(self, step: int, score: float) -> None:
        """Log the validation loss; its computation does not count as training time.

        Args:
            step: Number of completed steps.
            score: The validation loss.
        """
        self._log_numbers({"step": step, "validation_loss": score})
        self._since = time.perf_counter()

    def log_skipped(self, step: int, sequences: Sequence[SkippedSequence]) -> None:
        """Log sequences that were skipped for the first time, in the log and on the console.

        Args:
            step: Number of completed steps.
            sequences: All sequences that all processes skipped so far.
        """
        new = [sequence for sequence in sequences if sequence.name not in self._logged_sequences]
        if new:
            self._logged_sequences |= {sequence.name for sequence in new}
            self._write_line({"step": step, "skipped_sequences": {one.name: one.reason for one in new}})
            for sequence in new:
                self.print(f"step {step}: {sequence.name} is skipped: {sequence.reason}")

    def print(self, text: str) -> None:
        """Print a message on stderr, above the progress bar.

        Args:
            text: The message.
        """
        if not self._is_quiet:
            self._bar.write(text, file=sys.stderr)

    def close(self, step: int, skipped: Sequence[SkippedSequence] = ()) -> None:
        """Close the progress bar and the trackers, and list all skipped sequences.

        Args:
            step: Number of completed steps.
            skipped: All sequences that all processes skipped in this run.
        """
        self.log_skipped(step, skipped)
        self._bar.close()
        if skipped:
            self.print(describe_skipped(skipped))
        for tracker in self._trackers:
            tracker.finish()

    def _log_numbers(self, values: Mapping[str, float]) -> None:
        if self._is_quiet:
            return
        self._write_line(values)
        numbers = {name: value for name, value in values.items() if name != "step"}
        for tracker in self._trackers:
            tracker.log(numbers, int(values["step"]))

    def _write_line(self, values: Mapping[str, Any]) -> None:
        if self._is_quiet:
            return
        with os_errors_as_user_errors(f"cannot write {self._file}"), self._file.open("a") as file:
            file.write(json.dumps(values) + "\n")


def drop_later_lines(file: Path, step: int) -> None:
    """Remove the lines of later steps, and lines that were written only in part, from a log, atomically.

    Args:
        file: The log; it need not exist.
        step: Completed steps of the checkpoint from which the run is resumed.

    Raises:
        UserError: If the log cannot be read or written.
    """
    if not file.is_file():
        return
    with os_errors_as_user_errors():
        lines = file.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and _is_until(line, step)]
    if kept != lines:
        with atomic_file(file) as partial:
            partial.write_bytes(b"".join(kept))


def peak_memory() -> float:
    """Measure the peak memory of the GPU, or of this process if there is no GPU.

    Returns:
        Peak memory in GiB; NaN if unknown (Windows without a GPU).
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:
        return float("nan")
    # The unit is bytes on macOS and KiB elsewhere.
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _is_until(line: bytes, step: int) -> bool:
    """Return whether a line of the log is intact and of a step up to `step`."""
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
