"""The configuration of small training runs."""

from recon4d.train.config import DataConfig, TrainConfig


def config(batch_size: int = 2, steps: int = 40) -> TrainConfig:
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
