"""Reproducible loading: every batch is a function of the seed, the step and the positions in the global batch."""

import gc
import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from recon4d.datasets.augmentation import Augmentation, augment_colors
from recon4d.datasets.cropping import crop_and_resize, random_crop_window
from recon4d.datasets.mixture import SampleSource
from recon4d.datasets.sample import Sample
from recon4d.datasets.sampling import placeholder_tracks, random_stream, sample_tracks
from recon4d.errors import UserError

PREFETCH_FACTOR = 2
"""Number of batches that each worker prepares in advance; the default of PyTorch."""


def sample_seed(seed: int, step: int, position: int) -> int:
    """Derive the seed of one sample of a run.

    The seed consists of the first eight bytes of BLAKE2b over the three numbers as little-endian 64-bit integers,
    without the sign bit. It is the same on every machine and in every version.

    Args:
        seed: Seed of the run, at least 0.
        step: Training step, at least 0.
        position: Position of the sample in the global batch, at least 0.

    Returns:
        A non-negative integer below 2^63.

    Raises:
        ValueError: If a number is negative.
    """
    if min(seed, step, position) < 0:
        raise ValueError(f"seed, step, position = {seed}, {step}, {position}; wanted none below 0")
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, step, position), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class PreprocessedSource:
    """A source whose samples are cropped, resized, augmented and given a fixed number of tracks.

    Samples of different data sets can then be stacked. The clip's source and the object ids, which only some data sets
    have, are removed.
    """

    source: SampleSource
    """Source of the original samples."""
    size: tuple[int, int]
    """Height and width of the result."""
    num_tracks: int
    """Number of queries of each anchor."""
    anchors: tuple[int, ...] = (0,)
    """Anchors of the placeholder tracks of samples without tracks; must be those of the samples with tracks."""
    min_crop_scale: float = 0.7
    """Smallest side length of the random crop, as a fraction of the largest crop; 1 keeps the largest crop."""
    augmentation: Augmentation | None = None
    """Photometric augmentation; None keeps the colors."""

    def sample(self, seed: int) -> Sample:
        """Create the preprocessed sample of a seed.

        Args:
            seed: Any non-negative integer below 2^63.

        Returns:
            A single sample of the configured size that depends only on the seed.
        """
        sample = self.source.sample(seed)
        window = random_crop_window(sample.clip.size, self.size, self.min_crop_scale, random_stream(seed, "window"))
        sample = crop_and_resize(sample, window, self.size)
        if sample.scene.tracks is None:
            tracks = placeholder_tracks(sample.scene.num_frames, self.anchors, self.num_tracks)
            sample = replace(sample, scene=replace(sample.scene, tracks=tracks))
        sample = sample_tracks(sample, self.num_tracks, random_stream(seed, "tracks"))
        images = sample.clip.images
        if self.augmentation is not None:
            images = augment_colors(images, self.augmentation, seed)
        return replace(sample, clip=replace(sample.clip, images=images, source=None), object_ids=None)


class SeededDataset(Dataset[Sample]):
    """The samples of a run, indexed by (step, position in the global batch).

    Args:
        source: Source of the samples.
        seed: Seed of the run, at least 0.
    """

    def __init__(self, source: SampleSource, seed: int) -> None:
        self.source = source
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        return self.source.sample(sample_seed(self.seed, *place))


class GlobalBatchSampler(Sampler[list[tuple[int, int]]]):
    """The endless sequence of one rank's parts of the global batches, as lists of (step, position).

    Args:
        first_step: Step of the first batch, at least 0.
        batch_size: Number of samples of each rank.
        rank: Index of this process.
        world_size: Number of processes.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, first_step: int, batch_size: int, rank: int, world_size: int) -> None:
        if first_step < 0 or batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"first_step = {first_step}, batch_size = {batch_size}, rank = {rank}, world_size = {world_size}; "
                "wanted first_step >= 0, batch_size >= 1 and 0 <= rank < world_size"
            )
        self._first_step = first_step
        self._positions = range(rank * batch_size, (rank + 1) * batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self._first_step
        while True:
            yield [(step, position) for position in self._positions]
            step += 1


@dataclass(frozen=True)
class _UserErrorMessage:
    """The message of a `UserError`, sent from a worker to the main process in place of a batch."""

    text: str


class _LoaderDataset(Dataset[Any]):
    """A data set whose samples are computed in one thread, and whose user errors in workers become messages.

    PyTorch would replace the message of a worker's exception by its traceback.
    """

    def __init__(self, samples: Dataset[Sample]) -> None:
        self._samples = samples

    def __getitem__(self, place: tuple[int, int]) -> Sample | _UserErrorMessage:
        try:
            with _single_threaded():
                return self._samples[place]
        except UserError as error:
            if get_worker_info() is None:
                raise
            return _UserErrorMessage(str(error))


class _ForkSafeLoader(DataLoader[Sample]):
    """A loader whose workers do not free objects of the main process.

    A forked worker inherits objects that the main process has not collected yet. Freeing a video decoder in the worker
    waits forever for its threads, which a fork does not copy. So the main process collects garbage before the fork and
    hides all live objects from the workers' collectors, as the documentation of `gc.freeze` advises.
    """

    def __iter__(self) -> Any:
        gc.collect()
        gc.freeze()
        try:
            batches = super().__iter__()
        finally:
            gc.unfreeze()
        return _raise_user_errors(batches)


def make_loader(
    source: SampleSource, seed: int, first_step: int, batch_size: int, rank: int, world_size: int, num_workers: int
) -> DataLoader[Sample]:
    """Create a loader of endless stacked batches.

    The global batch of a step is the concatenation of the ranks' batches. It does not depend on the number of workers,
    on the number of ranks, or on the step at which a run is resumed. The loader is already sharded: do not pass it
    to ``Accelerator.prepare``.

    Iteration raises `UserError` if a sample cannot be read, also from a worker.

    Args:
        source: Source of the samples.
        seed: Seed of the run, at least 0.
        first_step: Step of the first batch.
        batch_size: Number of samples of this rank's batch.
        rank: Index of this process.
        world_size: Number of processes.
        num_workers: Number of worker processes; 0 loads in the main process.

    Returns:
        A loader of samples of batch shape (batch_size).

    Raises:
        ValueError: If a number is out of range.
    """
    batches = GlobalBatchSampler(first_step, batch_size, rank, world_size)
    return make_step_loader(SeededDataset(source, seed), batches, num_workers)


def make_step_loader(
    samples: Dataset[Sample], batches: Iterable[list[tuple[int, int]]], num_workers: int
) -> DataLoader[Sample]:
    """Create a loader of given batches, for sources whose samples differ from step to step.

    Iteration raises `UserError` if a sample cannot be read, also from a worker.

    Args:
        samples: Samples indexed by (step, position in the global batch).
        batches: Places (step, position) of the samples of each batch.
        num_workers: Number of worker processes; 0 loads in the main process.

    Returns:
        A loader of stacked samples.
    """
    return _ForkSafeLoader(
        _LoaderDataset(samples),
        batch_sampler=batches,
        collate_fn=_stack,
        num_workers=num_workers,
        prefetch_factor=PREFETCH_FACTOR if num_workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def _stack(samples: Sequence[Sample | _UserErrorMessage]) -> Sample | _UserErrorMessage:
    """Stack samples into a batch, or return the first error."""
    stackable = []
    for sample in samples:
        if isinstance(sample, _UserErrorMessage):
            return sample
        stackable.append(sample)
    return Sample.stack(stackable)


def _raise_user_errors(batches: Iterator[Sample | _UserErrorMessage]) -> Iterator[Sample]:
    for batch in batches:
        if isinstance(batch, _UserErrorMessage):
            raise UserError(batch.text)
        yield batch


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Limit torch to one thread, as in workers, because the number of threads determines the order of summation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
