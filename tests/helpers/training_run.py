"""A small training run, alone or under torchrun: ``training_run.py FOLDER [--die-at STEP] [--batch N] ...``."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch

from recon4d.train import loop
from recon4d.train.checkpoints import latest_complete
from recon4d.train.config import DataConfig, TrainConfig

STEPS = 40


def config(batch_size: int = 2, steps: int = STEPS) -> TrainConfig:
    """Return a configuration with two shapes of tiny clips and a checkpoint every 5 steps."""
    return TrainConfig(
        model="recon4d_tiny",
        steps=steps,
        warmup_steps=5,
        data=DataConfig(shapes=("2x32x48", "3x32x32*0.5"), batch_size=batch_size, track_stride=4),
        log_every=5,
        save_every=5,
        validate_every=20,
        validation_clips=1,
    )


def die_at(step_of_death: int) -> None:
    """Make training runs end in the middle of a step, as after SIGKILL."""
    original_step = loop._TrainingRun._train_step

    def step_or_die(self, step, parts):
        if step == step_of_death:
            os._exit(9)
        return original_step(self, step, parts)

    loop._TrainingRun._train_step = step_or_die  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--backward", default="joint")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    if arguments.die_at is not None:
        die_at(arguments.die_at)
    arguments.folder.mkdir(exist_ok=True)
    resumed = latest_complete(arguments.folder / "checkpoints")
    training = replace(config(arguments.batch, arguments.steps), backward=arguments.backward)
    loop.train(training, arguments.folder, resumed)
