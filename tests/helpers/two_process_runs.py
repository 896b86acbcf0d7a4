"""Small training runs of two processes, started with torchrun's environment: ``two_process_runs.py FOLDER``.

``whole``, ``sharded`` and ``killed`` are four steps unsharded, sharded, and sharded but ended before the last step and
resumed; ``joint``, ``joint_killed`` and ``separate`` are five steps unsharded, ended and resumed, and with separate
backward passes.
"""

import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import training_run

from recon4d.train import loop
from recon4d.train.checkpoints import latest_complete
from recon4d.train.config import TrainConfig
from recon4d.train.sharding import local_tensor

STEPS, SAVED = 4, 3
UNSHARDED_STEPS = 5


def config(sharding: str) -> TrainConfig:
    """Two micro-batches, a checkpoint before the last step, and a validation before, which must not affect training."""
    small = training_run.config(batch_size=4, steps=STEPS)
    return replace(small, sharding=sharding, accumulate=2, save_every=SAVED, log_every=1, validate_every=2)


def unsharded_config() -> TrainConfig:
    """Return eight clips in a step, a checkpoint before the last two steps, and validations in between."""
    small = training_run.config(batch_size=8, steps=UNSHARDED_STEPS)
    return replace(small, save_every=SAVED, validate_every=2)


def count(value: object) -> int:
    """Count the values of all tensors in nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(count(part) for part in parts)


def train_and_count(training: TrainConfig, folder: Path) -> None:
    """Train, and write how many values this process holds, and how many a checkpoint has, to ``rank_N.json``."""
    run = loop._TrainingRun(training, folder, None)
    run.run()
    state = run._state()
    kept = [one.state for one in run.optimizers.optimizers]
    numbers = {
        "parameters": sum(local_tensor(parameter).numel() for parameter in run.model.parameters()),
        "parameters_whole": count(state.get("model")),
        "moments": sum(count(values) for states in kept for values in states.values()),
        "moments_whole": count(state.get("optimisers")),
        "average": count(run.average.average),
        "average_whole": count(state.get("average")),
        "devices": sorted({value.device.type for value in state.get("average", {}).get("average", {}).values()}),
    }
    (folder / f"rank_{os.environ['RANK']}.json").write_text(json.dumps(numbers))


def train_until(step_of_end: int, training: TrainConfig, folder: Path) -> None:
    """Train until the middle of a step, and end there without saving."""
    original_step = loop._TrainingRun._train_step

    def step_or_end(self, step, parts):
        if step == step_of_end:
            raise SystemExit
        return original_step(self, step, parts)

    loop._TrainingRun._train_step = step_or_end  # type: ignore[method-assign]
    with contextlib.suppress(SystemExit):
        loop.train(training, folder)
    loop._TrainingRun._train_step = original_step  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    loop.train(config("none"), root / "whole")
    train_and_count(config("full"), root / "sharded")
    train_until(SAVED, config("full"), root / "killed")
    loop.train(config("full"), root / "killed", latest_complete(root / "killed" / "checkpoints"))
    loop.train(unsharded_config(), root / "joint")
    train_until(UNSHARDED_STEPS - 1, unsharded_config(), root / "joint_killed")
    left = latest_complete(root / "joint_killed" / "checkpoints")
    assert left is not None
    assert left.step == SAVED
    loop.train(unsharded_config(), root / "joint_killed", left)
    loop.train(replace(unsharded_config(), backward="separate"), root / "separate")
