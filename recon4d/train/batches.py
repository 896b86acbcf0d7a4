"""Training batches: each is a function of the seed, the step and the positions of its clips in the global batch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset

from recon4d.datasets import (
    DATASETS,
    Augmentation,
    ClipSampling,
    DynamicReplica,
    Mixture,
    PointOdyssey,
    PreprocessedSource,
    Sample,
    SequenceDataset,
    Source,
    make_step_loader,
    sample_seed,
)
from recon4d.datasets.mixture import SkippedSequence
from recon4d.datasets.sampling import random_stream
from recon4d.datasets.synthetic import (
    Lattice,
    RenderSteps,
    SyntheticConfig,
    compile_render_steps,
    load_textures,
    make_scenes,
    render_scenes,
)
from recon4d.errors import UserError
from recon4d.records import Priors
from recon4d.train.config import DataConfig, DataSet, Shape, TrainConfig
from recon4d.train.objective import Batch

TRAINING_FAMILY = 0
"""Family of random synthetic scenes for training; validation and benchmarks use other families."""
NUM_DISK_TRACKS = 2048
"""Tracks per clip from data sets on disk. Hand-tuned."""
INITIAL_DIFFICULTY = 0.4
"""Fraction of the full range of motion in synthetic scenes at step 0. Hand-tuned."""


@dataclass(frozen=True)
class RankInfo:
    """Position of this process among all processes, and its device."""

    rank: int = 0
    """Number of this process, from 0."""
    world_size: int = 1
    """Number of processes."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    """Device on which this process trains and renders synthetic scenes."""


class Batches:
    """The batches of one process, each split into micro-batches for gradient accumulation.

    Args:
        config: Configuration of the run.
        rank_info: This process.

    Raises:
        UserError: If a batch cannot be split evenly, or a data set does not exist.
    """

    def __init__(self, config: TrainConfig, rank_info: RankInfo) -> None:
        data = config.data
        self._config, self._rank_info = data, rank_info
        self._seed, self._steps, self._accumulate = config.seed, config.steps, config.accumulate
        self._render_parts = compile_render_steps() if config.compile else RenderSteps()
        self._textures = load_textures(Path(data.textures)).to(rank_info.device) if data.textures else None
        self._shapes, self._sets = data.parsed_shapes, data.parsed_sets
        for shape in self._shapes:
            self._clips_per_micro_batch(shape)
        self.sources = open_sources(data)
        self._mixtures = {shape: self._mixture(shape) for shape in self._shapes} if self.sources else {}
        self._preprocessed = {
            shape: PreprocessedSource(
                mixture, (shape.height, shape.width), NUM_DISK_TRACKS, augmentation=Augmentation()
            )
            for shape, mixture in self._mixtures.items()
        }

    def from_step(self, first_step: int) -> Iterator[tuple[int, list[Batch]]]:
        """Iterate over the batches of a run.

        Args:
            first_step: Step of the first batch, from 0.

        Yields:
            A step and its micro-batches, for all steps from `first_step` to the last.
        """
        from_disk = self._disk_batches(first_step)
        for step in range(first_step, self._steps):
            if self.is_synthetic(step):
                yield step, [self.synthetic_batch(step, part) for part in range(self._accumulate)]
            else:
                assert from_disk is not None
                samples = [next(from_disk).to(self._rank_info.device) for _ in range(self._accumulate)]
                yield step, [self._with_priors(sample, step, part) for part, sample in enumerate(samples)]

    def shape(self, step: int) -> Shape:
        """Draw the shape of all clips of a step.

        Args:
            step: Number of the step, from 0.

        Returns:
            The shape, the same on all processes.
        """
        weights = np.array([shape.weight for shape in self._shapes])
        drawn = random_stream(self._seed, f"shape of step {step}").random()
        return self._shapes[int(np.searchsorted(np.cumsum(weights / weights.sum())[:-1], drawn, side="right"))]

    def is_synthetic(self, step: int) -> bool:
        """Draw whether the batch of a step consists of synthetic scenes or of clips from data sets.

        Args:
            step: Number of the step, from 0.

        Returns:
            True for synthetic scenes, the same on all processes.
        """
        data_set_weight = sum(data_set.weight for data_set in self._sets)
        probability = self._config.worlds_weight / (self._config.worlds_weight + data_set_weight)
        return random_stream(self._seed, f"kind of step {step}").random() < probability

    def synthetic_batch(self, step: int, part: int) -> Batch:
        """Generate and render synthetic scenes on the training device.

        Args:
            step: Number of the step, from 0.
            part: Number of the micro-batch, from 0.

        Returns:
            This process's micro-batch.
        """
        shape = self.shape(step)
        config = SyntheticConfig(shape.num_frames, shape.height, shape.width, loose_share=self._config.loose_share)
        seeds = [sample_seed(self._seed, step, position) for position in self._positions(shape, part)]
        num_textures = 0 if self._textures is None else len(self._textures)
        ramp = step / max(1, self._config.ramp_share * self._steps)
        difficulty = min(1.0, INITIAL_DIFFICULTY + (1 - INITIAL_DIFFICULTY) * ramp)
        scenes = make_scenes(config, TRAINING_FAMILY, seeds, self._rank_info.device, difficulty, num_textures)
        anchors = self._anchors(step, part).to(self._rank_info.device)
        queries = self._query_lattice(step)
        sample = render_scenes(scenes, config, anchors, self._textures, self._render_parts, queries)
        return self._with_priors(sample, step, part)

    def disk_sample(self, step: int, position: int) -> Sample:
        """Read one clip from the mixture of data sets.

        Args:
            step: Number of the step, from 0.
            position: Position of the clip in the global batch.

        Returns:
            A single sample.

        Raises:
            UserError: If no sequence of the drawn data set can be read.
        """
        return self._preprocessed[self.shape(step)].sample(sample_seed(self._seed, step, position))

    def skipped_sequences(self) -> list[SkippedSequence]:
        """List the sequences of data sets that this process and its workers skipped so far.

        Returns:
            One entry for each sequence, over all clip shapes.
        """
        return merge_skipped(one for mixture in self._mixtures.values() for one in mixture.skipped_sequences())

    def _anchors(self, step: int, part: int) -> Int[Tensor, "batch 1"]:
        """Draw the anchor frame of each synthetic clip: the first frame or a random one."""
        anchors = []
        for stream in self._clip_streams(step, part):
            is_random = stream.random(3)[2] < self._config.other_anchor_share
            anchors.append(int(stream.integers(self.shape(step).num_frames)) if is_random else 0)
        return torch.tensor(anchors)[:, None]

    def _clip_streams(self, step: int, part: int) -> list[np.random.Generator]:
        """Return a random generator for each clip of a micro-batch, which decides on its priors and anchor."""
        positions = self._positions(self.shape(step), part)
        return [random_stream(sample_seed(self._seed, step, position), "known") for position in positions]

    def _query_lattice(self, step: int) -> Lattice:
        """Shift the grid of track queries in each step: pixels that are never queried would never be trained."""
        stride = self._config.track_stride
        row, column = random_stream(self._seed, f"tracks of step {step}").integers(stride, size=2)
        return Lattice(stride, (int(row), int(column)))

    def _with_priors(self, sample: Sample, step: int, part: int) -> Batch:
        """Make a batch in which some clips have their intrinsics, or intrinsics and cameras, as priors."""
        draws = np.array([stream.random(3) for stream in self._clip_streams(step, part)])
        has_intrinsics = draws[:, 0] < self._config.known_share
        has_cameras = has_intrinsics & (draws[:, 1] < 0.5)
        priors = make_priors(sample, torch.from_numpy(has_intrinsics), torch.from_numpy(has_cameras))
        tracks = sample.scene.tracks
        assert tracks is not None
        clip = replace(sample.clip, priors=priors, source=None)
        seed = sample_seed(self._seed, step, self._positions(self.shape(step), part)[0])
        return Batch(replace(sample, clip=clip, object_ids=None), tracks.anchors, seed)

    def _clips_per_micro_batch(self, shape: Shape) -> int:
        """Return how many clips of a shape each process has in each micro-batch."""
        num_parts = self._rank_info.world_size * self._accumulate
        total = round(self._config.batch_size * shape.batch_factor)
        if total < num_parts or total % num_parts:
            raise UserError(
                f"a batch of {total} clips of {shape.num_frames} x {shape.height} x {shape.width} cannot be split "
                f"evenly into {self._rank_info.world_size} processes x {self._accumulate} micro-batches"
            )
        return total // num_parts

    def _positions(self, shape: Shape, part: int) -> range:
        """Return the positions in the global batch of this process's clips in a micro-batch."""
        num_clips = self._clips_per_micro_batch(shape)
        first = (part * self._rank_info.world_size + self._rank_info.rank) * num_clips
        return range(first, first + num_clips)

    def _disk_batches(self, first_step: int) -> Iterator[Sample] | None:
        if not self._mixtures:
            return None
        places = _DiskPlaces(self, first_step)
        return iter(make_step_loader(_DiskSamples(self), places, self._config.workers))

    def _disk_places(self, first_step: int) -> Iterator[list[tuple[int, int]]]:
        """Yield (step, position in the global batch) of the clips of each micro-batch that is read from disk."""
        for step in range(first_step, self._steps):
            if not self.is_synthetic(step):
                for part in range(self._accumulate):
                    yield [(step, position) for position in self._positions(self.shape(step), part)]

    def _mixture(self, shape: Shape) -> Mixture:
        sampling = ClipSampling(num_frames=shape.num_frames, random_anchor_probability=self._config.other_anchor_share)
        return Mixture(self.sources, sampling)


class _DiskPlaces(Iterable[list[tuple[int, int]]]):
    """The places of all clips from disk, computed while a loader asks for them: runs may have millions of steps."""

    def __init__(self, batches: Batches, first_step: int) -> None:
        self._batches, self._first_step = batches, first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches._disk_places(self._first_step)


class _DiskSamples(Dataset[Sample]):
    """Clips from disk by (step, position in the global batch)."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        return self._batches.disk_sample(*place)


def make_priors(sample: Sample, has_intrinsics: Bool[Tensor, "batch"], has_cameras: Bool[Tensor, "batch"]) -> Priors:
    """Make priors from the ground truth of some clips of a batch.

    Args:
        sample: A batch of samples.
        has_intrinsics: Clips with intrinsics.
        has_cameras: Clips with camera poses.

    Returns:
        Priors of all clips; those that a clip does not have are NaN. Depth is NaN everywhere: it is present so that
        every parameter of the prior encoder has a gradient in every step on every process.
    """
    cameras = sample.scene.cameras
    device = cameras.intrinsics.device
    return Priors(
        intrinsics=torch.where(has_intrinsics.to(device)[:, None, None, None], cameras.intrinsics, torch.nan),
        world_from_cam=torch.where(has_cameras.to(device)[:, None, None, None], cameras.world_from_cam, torch.nan),
        depths=torch.full_like(sample.scene.depths, torch.nan),
    )


def open_sources(config: DataConfig) -> tuple[Source, ...]:
    """Open the configured data sets.

    Args:
        config: Training data.

    Returns:
        The data sets with their weights; empty if only synthetic scenes are configured.

    Raises:
        UserError: If a data set does not exist.
    """
    return tuple(
        Source(data_set.name, open_data_set(data_set), data_set.weight, data_set.name in config.still)
        for data_set in config.parsed_sets
    )


def open_data_set(data_set: DataSet) -> SequenceDataset:
    """Open a data set on disk.

    Args:
        data_set: Name, folder and split.

    Returns:
        The data set.

    Raises:
        UserError: If the name is unknown, or the folder does not hold such a data set.
    """
    if data_set.name not in DATASETS:
        raise UserError(f"unknown data set {data_set.name!r}; available are {', '.join(DATASETS)}")
    kind = DATASETS[data_set.name]
    if kind in (PointOdyssey, DynamicReplica):
        return kind(data_set.root, data_set.split or "train")  # pyright: ignore[reportCallIssue]
    return kind(data_set.root)  # pyright: ignore[reportCallIssue]


def merge_skipped(sequences: Iterable[SkippedSequence]) -> list[SkippedSequence]:
    """Merge entries of the same sequence from several mixtures or processes.

    Args:
        sequences: Skipped sequences, possibly with several entries of the same name.

    Returns:
        One entry for each name, with the sum of the counts and the first reason, in the order of first appearance.
    """
    merged: dict[str, SkippedSequence] = {}
    for sequence in sequences:
        earlier = merged.get(sequence.name)
        merged[sequence.name] = sequence if earlier is None else replace(earlier, count=earlier.count + sequence.count)
    return list(merged.values())
