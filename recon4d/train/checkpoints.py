"""Checkpoints of a training run: written atomically, verified by checksums, the latest and the best are kept."""

import hashlib
import json
import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from recon4d.errors import UserError, os_errors_as_user_errors
from recon4d.io.temporaries import PARTIAL, leftovers, temporary_folder
from recon4d.models import Model
from recon4d.zoo import save_model

_COMPLETE = "complete.json"
_STATE = "state.pt"
_MODEL = "model.safetensors"

_verified: dict[Path, tuple[tuple[int, int, int], ...]] = {}
"""Fingerprints of the checkpoints whose checksums this process computed, so that each is hashed only once."""


class DamagedCheckpointError(UserError):
    """A checkpoint is damaged or incomplete; the message names the latest complete one before it, if there is any."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder ``step_00001000`` with model.safetensors (the averaged weights) and state.pt (to resume the run)."""

    folder: Path
    """The folder; it need not exist or be complete."""

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return int(self.folder.name.removeprefix("step_"))

    @property
    def model_file(self) -> Path:
        """Checkpoint of the model with averaged weights."""
        return self.folder / _MODEL

    def is_complete(self) -> bool:
        """Verify the checksums of all files.

        Returns:
            Whether all files exist and have the checksums that were computed when they were written.
        """
        try:
            checksums = json.loads((self.folder / _COMPLETE).read_text())["sums"]
            fingerprint = _fingerprint(self.folder)
            is_complete = all(_checksum(self.folder / name) == checksums[name] for name in (_MODEL, _STATE))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if is_complete:
            _verified[self.folder] = fingerprint
        return is_complete

    def is_verified(self) -> bool:
        """Verify the files without hashing those that this process hashed before.

        Files count as unchanged if their sizes, times of modification and inodes are the same.

        Returns:
            Whether the checkpoint is complete.
        """
        try:
            is_unchanged = self.folder in _verified and _verified[self.folder] == _fingerprint(self.folder)
        except OSError:
            return False
        return is_unchanged or self.is_complete()

    def score(self) -> float:
        """Read the validation loss.

        Returns:
            The loss at the time of writing; infinite if there was no validation.
        """
        score = json.loads((self.folder / _COMPLETE).read_text())["score"]
        return float("inf") if score is None else score

    def load_state(self) -> dict[str, Any]:
        """Load the state of the run.

        Returns:
            The state that `write_checkpoint` was given, with tensors on the CPU.

        Raises:
            DamagedCheckpointError: If the checkpoint is damaged or incomplete.
        """
        if not self.is_complete():
            earlier = [other for other in list_checkpoints(self.folder.parent) if other.step < self.step]
            latest = next((other for other in reversed(earlier) if other.is_complete()), None)
            advice = f"the latest complete one before it is {latest.folder}" if latest else "there is no earlier one"
            raise DamagedCheckpointError(f"checkpoint {self.folder} is damaged or incomplete; {advice}")
        return torch.load(self.folder / _STATE, map_location="cpu", weights_only=True)


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """List all checkpoints of a run, complete or not.

    Args:
        folder: Folder of the run's checkpoints; it need not exist.

    Returns:
        The checkpoints, earliest first.
    """
    paths = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{8,}", path.name)]
    return sorted((Checkpoint(path) for path in paths), key=lambda checkpoint: checkpoint.step)


def latest_complete(folder: Path) -> Checkpoint | None:
    """Find the latest complete checkpoint of a run.

    Args:
        folder: Folder of the run's checkpoints; it need not exist.

    Returns:
        The checkpoint; None if there is none.
    """
    return next((one for one in reversed(list_checkpoints(folder)) if one.is_complete()), None)


def write_checkpoint(folder: Path, step: int, model: Model, state: dict[str, Any], score: float | None) -> Checkpoint:
    """Write a checkpoint atomically; it replaces an earlier one of the same step.

    Args:
        folder: Folder of the run's checkpoints; it is created if needed.
        step: Number of completed steps.
        model: The model with averaged weights.
        state: State of the run: tensors and plain values in dictionaries and lists.
        score: Validation loss of `model`; None without a validation at this step.

    Returns:
        The checkpoint.

    Raises:
        UserError: If it cannot be written, for example because the disk is full.
    """
    target = folder / f"step_{step:08d}"
    with os_errors_as_user_errors(f"cannot write checkpoint {target}"):
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target) as partial:
            save_model(model, partial / _MODEL)
            _save_state(state, partial / _STATE)
            checksums = {name: _checksum(partial / name) for name in (_MODEL, _STATE)}
            (partial / _COMPLETE).write_text(json.dumps({"score": score, "sums": checksums}))
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
        _verified[target] = _fingerprint(target)
    return Checkpoint(target)


def keep_last_and_best(folder: Path, keep: int) -> None:
    """Delete all complete checkpoints except the latest ones and the one with the lowest score.

    Args:
        folder: Folder of the run's checkpoints.
        keep: Number of latest checkpoints to keep, at least 1.

    Raises:
        UserError: If a checkpoint cannot be deleted.
    """
    complete = [one for one in list_checkpoints(folder) if one.is_verified()]
    best = min(complete, key=Checkpoint.score, default=None)
    for one in complete[:-keep]:
        if best is None or one.folder != best.folder:
            with os_errors_as_user_errors(f"cannot delete checkpoint {one.folder}"):
                shutil.rmtree(one.folder)
            _verified.pop(one.folder, None)


def remove_partial_checkpoints(folder: Path) -> None:
    """Remove incomplete checkpoints that a stopped process left behind, and name them in one warning.

    Args:
        folder: Folder of the run's checkpoints; it need not exist.
    """
    removed = []
    for path in sorted(folder.glob(".step_*")):
        parts = re.fullmatch(rf"\.(step_\d+)\.{PARTIAL}-[0-9a-f]{{8}}", path.name)
        # Folders of a living process are locked and are not among the leftovers.
        is_leftover = parts is None or path in leftovers(folder / parts[1], (PARTIAL,))
        if is_leftover and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    if removed:
        warnings.warn(f"removed partial checkpoints of a stopped run in {folder}: {', '.join(removed)}", stacklevel=2)


class _ErrorRecordingWriter:
    """Passes bytes to a file and keeps the error of a failed write, which PyTorch reports without its cause."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save_state(state: dict[str, Any], path: Path) -> None:
    """Save a state with `torch.save`; a failed write raises its `OSError`."""
    with path.open("xb") as file:
        writer = _ErrorRecordingWriter(file)
        try:
            torch.save(state, writer)  # pyright: ignore[reportArgumentType]
        except RuntimeError:
            if writer.error is None:
                raise
            raise writer.error from None
        file.flush()
        os.fsync(file.fileno())


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _fingerprint(folder: Path) -> tuple[tuple[int, int, int], ...]:
    """Return size, time of modification (ns) and inode of each file of a checkpoint."""
    stats = [(folder / name).stat() for name in (_COMPLETE, _MODEL, _STATE)]
    return tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats)
