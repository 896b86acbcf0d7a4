"""Checkpoints of a training: whole or not there, the last few and the best kept, a damaged one never taken for good."""

import hashlib
import json
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recon4d.models import Model
from recon4d.zoo import save_model

_COMPLETE = "complete.json"
_STATE = "state.pt"
_MODEL = "model.safetensors"


class DamagedCheckpointError(ValueError):
    """A checkpoint is not what was written; the message names an earlier one, if there is any."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder ``step_00001000`` with model.safetensors (the averaged weights, for use) and state.pt (to go on)."""

    folder: Path

    @property
    def step(self) -> int:
        """How many steps had been done."""
        return int(self.folder.name.removeprefix("step_"))

    @property
    def model_file(self) -> Path:
        return self.folder / _MODEL

    def is_whole(self) -> bool:
        """Whether every file is there, byte for byte."""
        try:
            sums = json.loads((self.folder / _COMPLETE).read_text())["sums"]
            return all(_checksum(self.folder / name) == sums[name] for name in (_MODEL, _STATE))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def score(self) -> float:
        """The validation loss when it was written; infinite where there was none."""
        score = json.loads((self.folder / _COMPLETE).read_text())["score"]
        return float("inf") if score is None else score

    def load_state(self) -> dict[str, Any]:
        """What `write_checkpoint` was given, on the CPU. Raises `DamagedCheckpointError`."""
        if not self.is_whole():
            earlier = [other for other in checkpoints(self.folder.parent) if other.step < self.step]
            whole = next((other for other in reversed(earlier) if other.is_whole()), None)
            advice = f"the one before is {whole.folder}" if whole else "there is no earlier one"
            raise DamagedCheckpointError(f"checkpoint {self.folder} is damaged or incomplete; {advice}")
        return torch.load(self.folder / _STATE, map_location="cpu", weights_only=True)


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Those in `folder`, earliest first, whole or not."""
    found = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{8}", path.name)]
    return [Checkpoint(path) for path in sorted(found)]


def latest_whole(folder: Path) -> Checkpoint | None:
    """The last checkpoint that is whole."""
    return next((one for one in reversed(checkpoints(folder)) if one.is_whole()), None)


def write_checkpoint(folder: Path, step: int, model: Model, state: dict[str, Any], score: float | None) -> Checkpoint:
    """Write `model` (averaged weights) and `state` after `step` steps, whole or not at all; ``OSError`` if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step_{step:08d}"
    partial = folder / f".{target.name}.{secrets.token_hex(4)}"
    partial.mkdir()
    try:
        save_model(model, partial / _MODEL)
        torch.save(state, partial / _STATE)
        sums = {name: _checksum(partial / name) for name in (_MODEL, _STATE)}
        (partial / _COMPLETE).write_text(json.dumps({"score": score, "sums": sums}))
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Checkpoint(target)


def keep_last_and_best(folder: Path, keep: int) -> None:
    """Delete all checkpoints but the last `keep` and the one with the lowest score."""
    whole = [one for one in checkpoints(folder) if one.is_whole()]
    best = min(whole, key=Checkpoint.score, default=None)
    for one in whole[:-keep]:
        if best is None or one.folder != best.folder:
            shutil.rmtree(one.folder)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
