"""From a source of samples to batches that depend on nothing but the seed, the step and the place in the batch."""

import gc
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from recon4d.datasets.augmentation import Augmentation, augment_colors
from recon4d.datasets.cropping import random_window, resize_and_crop
from recon4d.datasets.mixture import SampleSource
from recon4d.datasets.sample import Sample
from recon4d.datasets.sampling import choose_tracks, random_numbers, unknown_tracks
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError

PREFETCHED_BATCHES = 2
"""Batches that each worker keeps ready while the network computes."""
LONG_LIST = 1000
"""From this many sequences on, indexing shows a progress bar."""


def sample_seed(seed: int, step: int, position: int) -> int:
    """The seed of the sample at `position` of the global batch of `step`: 64 bits that fit a signed integer.

    The first eight bytes of BLAKE2b over the three numbers as little-endian 64-bit integers, without the sign bit: the
    same on every machine and in every version, and neighbors have nothing in common. Raises ``ValueError`` for
    negative numbers.
    """
    if min(seed, step, position) < 0:
        raise ValueError(f"seed, step, position = {seed}, {step}, {position}; wanted none below 0")
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, step, position), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Prepared:
    """A source whose samples are brought to one size and one number of queries, so that those of any set stack.

    Where a sample has no tracks it gets unknown ones at `anchors`, which must be those of the other sets. What only
    some sets have, the clip's source and the ids of objects, is dropped. `augmentation` None leaves colors alone.
    """

    source: SampleSource
    size: tuple[int, int]
    num_tracks: int
    anchors: tuple[int, ...] = (0,)
    smallest_window: float = 0.7
    """Of the largest window that fits a frame; 1 cuts away only what the aspect demands."""
    augmentation: Augmentation | None = None

    def sample(self, seed: int) -> Sample:
        """The prepared sample of a seed."""
        sample = self.source.sample(seed)
        window = random_window(sample.clip.size, self.size, self.smallest_window, random_numbers(seed, "window"))
        sample = resize_and_crop(sample, window, self.size)
        if sample.scene.tracks is None:
            tracks = unknown_tracks(sample.scene.num_frames, self.anchors, self.num_tracks)
            sample = replace(sample, scene=replace(sample.scene, tracks=tracks))
        sample = choose_tracks(sample, self.num_tracks, random_numbers(seed, "tracks"))
        images = sample.clip.images
        if self.augmentation is not None:
            images = augment_colors(images, self.augmentation, seed)
        return replace(sample, clip=replace(sample.clip, images=images, source=None), object_ids=None)


class TrainingSamples(Dataset[Sample]):
    """The samples of a run: the item (step, position in the global batch) is a function of these and the seed."""

    def __init__(self, source: SampleSource, seed: int) -> None:
        self.source = source
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        with _one_thread():
            return self.source.sample(sample_seed(self.seed, *place))


class GlobalBatches(Sampler[list[tuple[int, int]]]):
    """Endlessly, one rank's places in the global batches from `first_step` on."""

    def __init__(self, first_step: int, batch_size: int, rank: int, world_size: int) -> None:
        if first_step < 0 or batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"first_step = {first_step}, batch_size = {batch_size}, rank = {rank} of {world_size}; "
                "wanted a step from 0, a batch from 1 and a rank below the number of ranks"
            )
        self._first_step = first_step
        self._positions = range(rank * batch_size, (rank + 1) * batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self._first_step
        while True:
            yield [(step, position) for position in self._positions]
            step += 1


class _ForkSafeLoader(DataLoader[Sample]):
    """A loader whose workers never clean up after their parent.

    A forked worker inherits what the parent has not collected yet. Freeing a video decoder there waits for its threads,
    which a fork does not copy, for ever. So the parent collects first, and what lives is hidden from the workers'
    collectors (as the documentation of `gc.freeze` advises).
    """

    def __iter__(self):
        gc.collect()
        gc.freeze()
        try:
            return super().__iter__()
        finally:
            gc.unfreeze()


def make_loader(
    source: SampleSource, seed: int, first_step: int, batch_size: int, rank: int, world_size: int, workers: int
) -> DataLoader[Sample]:
    """Endless batches of stacked samples, `batch_size` of them for this rank, beginning with those of `first_step`.

    The ranks' batches one after the other are the global batch of a step. It is the same for any number of workers, for
    any split over ranks, and wherever a run is taken up again. Workers read ahead while the network computes. The ranks
    are shared out here: do not let accelerate's ``prepare`` do it again. In a worker a `DataError` is raised as what
    torch makes of it, a ``RuntimeError`` with the same words.
    """
    return _ForkSafeLoader(
        TrainingSamples(source, seed),
        batch_sampler=GlobalBatches(first_step, batch_size, rank, world_size),
        collate_fn=Sample.stack,
        num_workers=workers,
        prefetch_factor=PREFETCHED_BATCHES if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def step_loader(samples: Dataset[Sample], batches: Sequence[list[tuple[int, int]]], workers: int) -> DataLoader[Sample]:
    """Stacked samples of the given batches of places (step, position in the global batch), one after the other.

    For sources whose samples differ from step to step; workers and errors are as for `make_loader`.
    """
    return _ForkSafeLoader(
        samples,
        batch_sampler=batches,
        collate_fn=Sample.stack,
        num_workers=workers,
        prefetch_factor=PREFETCHED_BATCHES if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


class SequenceIndex(SequenceDataset):
    """A data set whose lengths are kept in a JSON file, so that thousands of sequences need not be opened again.

    The file counts as long as the data set's kind and names and every file in `folder` (path, size, time of change) are
    as they were; otherwise it is written anew, as a whole, so that ranks may do so side by side. What is known to be
    broken is kept too.
    """

    def __init__(self, sequences: SequenceDataset, folder: str | Path, index_file: str | Path) -> None:
        """Reads the index or builds it. Raises ``OSError`` where the file cannot be written."""
        self._sequences = sequences
        self._names = sequences.names()
        index_file = Path(index_file)
        key = _content_key(sequences, self._names, Path(folder), index_file)
        lengths = _read_index(index_file, key)
        if lengths is None:
            lengths = _lengths(sequences, self._names)
            _write_index(index_file, key, lengths)
        self._lengths = lengths

    def names(self) -> list[str]:
        """The sequences there are, sorted."""
        return list(self._names)

    def num_frames(self, name: str) -> int:
        """How many frames a sequence has. Raises `DataError` as it was raised when the index was built."""
        if name not in self._lengths:
            raise ValueError(f"there is no sequence {name!r}; the first of {len(self._names)} is {self._names[:1]}")
        length = self._lengths[name]
        if isinstance(length, str):
            raise DataError(name, "index", length)
        return length

    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """The clip of these frames and its truth, read from the data set itself."""
        return self._sequences.read(name, frames, anchors)


def _content_key(sequences: SequenceDataset, names: list[str], folder: Path, index_file: Path) -> str:
    """A hash of everything that the lengths may depend on, the index itself left out."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([type(sequences).__module__, type(sequences).__qualname__, names]).encode())
    for inside, folders, files in os.walk(folder):
        folders.sort()  # in place: decides the order in which os.walk goes on
        for path in (Path(inside, name) for name in sorted(files)):
            # The index itself, or another rank's that is being written just now.
            if path.name != index_file.name and not path.name.startswith(f".{index_file.name}."):
                about = path.stat()
                digest.update(json.dumps([str(path.relative_to(folder)), about.st_size, about.st_mtime_ns]).encode())
    return digest.hexdigest()


def _lengths(sequences: SequenceDataset, names: list[str]) -> dict[str, int | str]:
    from tqdm import tqdm

    lengths: dict[str, int | str] = {}
    for name in tqdm(names, desc="indexing", unit="sequence", leave=False, disable=len(names) < LONG_LIST):
        try:
            lengths[name] = sequences.num_frames(name)
        except DataError as error:
            lengths[name] = str(error).removeprefix(f"{name}: ")
    return lengths


def _read_index(index_file: Path, key: str) -> dict[str, int | str] | None:
    """The lengths in the file, or None where there is no index of this content."""
    try:
        stored = json.loads(index_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return stored["lengths"] if isinstance(stored, dict) and stored.get("key") == key else None


def _write_index(index_file: Path, key: str, lengths: dict[str, int | str]) -> None:
    partial = _partial(index_file)
    partial.write_text(json.dumps({"key": key, "lengths": lengths}, indent=1))
    partial.replace(index_file)


def _partial(index_file: Path) -> Path:
    return index_file.with_name(f".{index_file.name}.{os.getpid()}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread inside, as in any worker: the number of threads decides in which order floats are summed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
