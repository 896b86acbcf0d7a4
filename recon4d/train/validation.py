"""The fixed set of clips on which a training run is validated."""

from dataclasses import replace

import torch

from recon4d.datasets import ClipSampling, Mixture, PreprocessedSource, Sample, Source, sample_seed
from recon4d.datasets.synthetic import Lattice, SyntheticConfig, make_scenes, render_scenes
from recon4d.train.batches import NUM_DISK_TRACKS, make_priors
from recon4d.train.config import DataConfig, Shape
from recon4d.train.objective import Batch

VALIDATION_FAMILY = 1
"""Family of random synthetic scenes for validation; training and benchmarks use other families."""
VALIDATION_STEP = 2**64 - 1
"""Step from which seeds of validation clips on disk are derived. No run has as many steps, so training never uses these
seeds."""


def validation_batches(
    config: DataConfig, num_clips: int, device: torch.device, sources: tuple[Source, ...] = ()
) -> list[Batch]:
    """Make the validation set: one clip a batch, without priors, with tracks that start at the first frame.

    The clips are synthetic scenes that are never used in training. If training uses no synthetic scenes, they are drawn
    from the data sets with seeds that are never used in training. The sequences are those of training, so this measures
    how well the data sets are fitted, on clips that are not trained on exactly.

    Args:
        config: Training data.
        num_clips: Number of clips, which have the first of the configured shapes.
        device: Device of the batches.
        sources: The configured data sets; needed only if training uses no synthetic scenes.

    Returns:
        The batches, the same on all processes and in all runs with the same training data.

    Raises:
        UserError: If no sequence of a drawn data set can be read.
    """
    shape = config.parsed_shapes[0]
    if config.worlds_weight > 0:
        samples = [_synthetic_sample(shape, config.track_stride, number, device) for number in range(num_clips)]
    else:
        samples = _disk_samples(shape, sources, num_clips)
    return [_batch(sample).to(device) for sample in samples]


def describe_validation(config: DataConfig, num_clips: int) -> str:
    """Describe what a run is validated on.

    Args:
        config: Training data.
        num_clips: Number of validation clips.

    Returns:
        One line for the user.
    """
    if config.worlds_weight > 0:
        return f"validation on {num_clips} synthetic clips that are never used in training"
    names = ", ".join(data_set.name for data_set in config.parsed_sets)
    return (
        f"validation on {num_clips} clips of {names}, drawn with seeds that are never used in training; "
        "training draws other clips of the same sequences"
    )


def _synthetic_sample(shape: Shape, track_stride: int, number: int, device: torch.device) -> Sample:
    config = SyntheticConfig(num_frames=shape.num_frames, height=shape.height, width=shape.width)
    scenes = make_scenes(config, VALIDATION_FAMILY, [number], device)
    return render_scenes(scenes, config, (0,), query_lattice=Lattice(track_stride))


def _disk_samples(shape: Shape, sources: tuple[Source, ...], num_clips: int) -> list[Sample]:
    mixture = Mixture(sources, ClipSampling(num_frames=shape.num_frames), anchors=(0,))
    preprocessed = PreprocessedSource(mixture, (shape.height, shape.width), NUM_DISK_TRACKS)
    seeds = [sample_seed(0, VALIDATION_STEP, number) for number in range(num_clips)]
    return [Sample.stack([preprocessed.sample(seed)]) for seed in seeds]


def _batch(sample: Sample) -> Batch:
    nowhere = torch.zeros(1, dtype=torch.bool)
    clip = replace(sample.clip, priors=make_priors(sample, nowhere, nowhere), source=None)
    return Batch(replace(sample, clip=clip, object_ids=None), torch.zeros(1, 1, dtype=torch.long))
