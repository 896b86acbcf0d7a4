"""A weighted mixture of data sets that skips and counts damaged or short sequences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import get_worker_info

from recon4d.datasets.sample import Sample, as_static
from recon4d.datasets.sampling import (
    ClipSampling,
    random_stream,
    sample_anchor,
    sample_frames,
    without_times,
)
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError, UserError

MAX_ATTEMPTS = 16
"""Number of seeds tried on a `SampleSource` before the source is reported as failing. Hand-tuned."""


@runtime_checkable
class SampleSource(Protocol):
    """A deterministic function from seeds to samples, such as a mixture or a generator of synthetic scenes."""

    def sample(self, seed: int, /) -> Sample:
        """Create the sample of a seed.

        Args:
            seed: Any non-negative integer below 2^63.

        Returns:
            A single sample that depends only on the seed.
        """
        ...


@dataclass(frozen=True)
class Source:
    """A data set of a mixture and its weight."""

    name: str
    """Name in reports and error messages."""
    data: SequenceDataset | SampleSource
    """Sequences from which clips are sampled, or a source of samples."""
    weight: float = 1.0
    """Relative frequency, above 0; weights of a mixture need not sum to 1."""
    static: bool = False
    """Whether the data set contains no motion. Its samples are then labeled as static everywhere."""


@dataclass(frozen=True)
class SkippedSequence:
    """A sequence that was skipped at least once."""

    name: str
    """Name of the source and of the sequence, such as ``kubric/0007``; only that of the source if it has no
    sequences."""
    count: int
    """Number of times that the sequence was drawn and skipped."""
    reason: str
    """Reason of the first skip."""


class Mixture:
    """Samples drawn from several sources by weight.

    The source, the sequence and the frames are functions of the seed alone. A sequence that is damaged (`DataError`) or
    too short is skipped, counted and replaced by another sequence of the same source, so that the weights are kept.
    Sequences whose length is unreadable or too short are remembered and not retried. If reading a clip fails, other
    clips of the same sequence are still tried, because the sample of a seed must not depend on earlier samples.

    Args:
        sources: At least one source.
        sampling: Distribution of the frames of clips.
        anchors: Positions in the clip at which tracks are queried; None draws one according to `sampling`.
        strict: Whether to raise `DataError` instead of skipping a sequence.

    Raises:
        UserError: If there are no sources, a weight is not positive, or a source has no sequences.
    """

    def __init__(
        self,
        sources: tuple[Source, ...],
        sampling: ClipSampling,
        anchors: tuple[int, ...] | None = None,
        strict: bool = False,
    ) -> None:
        if not sources or any(not 0 < source.weight < np.inf for source in sources):
            weights = [source.weight for source in sources]
            raise UserError(f"weights of data sets = {weights}; wanted at least one, each above 0")
        self._sources = sources
        self._sampling = sampling
        self._anchors = anchors
        self._strict = strict
        self._names = [source.data.names() if isinstance(source.data, SequenceDataset) else [""] for source in sources]
        empty = [source.name for source, names in zip(sources, self._names, strict=True) if not names]
        if empty:
            raise UserError(f"no sequences in data set {', '.join(empty)}")
        self._first_row = np.cumsum([0, *(len(names) for names in self._names)]).tolist()
        self._skips = _SkipLog(self._first_row[-1])
        self._bounds = np.cumsum([source.weight for source in sources]) / sum(source.weight for source in sources)

    def sample(self, seed: int) -> Sample:
        """Draw a sample.

        Args:
            seed: Any non-negative integer below 2^63.

        Returns:
            A single sample that depends only on the seed.

        Raises:
            DataError: If `strict` and the drawn sequence is damaged or too short.
            UserError: If every sequence of the drawn source was skipped.
        """
        index = int(np.searchsorted(self._bounds[:-1], random_stream(seed, "set").random(), side="right"))
        source = self._sources[index]
        if isinstance(source.data, SequenceDataset):
            sample = self._from_sequences(index, source.data, seed)
        else:
            sample = self._from_source(index, source.data, seed)
        return as_static(sample) if source.static else sample

    def skipped_sequences(self) -> list[SkippedSequence]:
        """List the sequences skipped so far, in this process and in the workers of its loaders.

        Returns:
            The skipped sequences in the order of the sources.
        """
        skipped = []
        for source, names, first in zip(self._sources, self._names, self._first_row, strict=False):
            for row, name in enumerate(names, start=first):
                if count := self._skips.count(row):
                    label = f"{source.name}/{name}" if name else source.name
                    skipped.append(SkippedSequence(label, count, self._skips.reason(row)))
        return skipped

    def report(self) -> str:
        """Describe the sequences skipped so far, in this process and in the workers of its loaders.

        Returns:
            One line for each skipped sequence with the number of times and the first reason.
        """
        return describe_skipped(self.skipped_sequences())

    def _from_sequences(self, index: int, data: SequenceDataset, seed: int) -> Sample:
        """Sample a clip from the first sequence, in an order drawn from the seed, that can be read."""
        names, first_row = self._names[index], self._first_row[index]
        for position in random_stream(seed, "sequence").permutation(len(names)).tolist():
            name, row = names[position], first_row + position
            if self._skips.is_permanent(row):
                self._skips.increment(row)
                continue
            try:
                length = self._checked_length(data, name)
            except DataError as error:
                self._skip(row, error, is_permanent=True)
                continue
            # Each sequence has its own random stream, so skipped sequences do not change the frames of others.
            frames = sample_frames(self._sampling, length, random_stream(seed, f"frames of {name}"))
            anchors = self._anchors
            if anchors is None:
                anchors = (sample_anchor(self._sampling, random_stream(seed, "anchor")),)
            try:
                sample = data.read(name, frames.indices, anchors)
            except DataError as error:
                self._skip(row, error, is_permanent=False)
                continue
            return without_times(sample) if frames.is_shuffled else sample
        raise UserError(
            f"none of the {len(names)} sequences of {self._sources[index].name} can be used; "
            f"first reason: {self._skips.reason(first_row)}"
        )

    def _from_source(self, index: int, data: SampleSource, seed: int) -> Sample:
        """Return the first of several samples that can be made."""
        seeds = random_stream(seed, "source").integers(2**63, size=MAX_ATTEMPTS).tolist()
        for own_seed in seeds:
            try:
                return data.sample(own_seed)
            except DataError as error:
                self._skip(self._first_row[index], error, is_permanent=False)
        raise UserError(
            f"{self._sources[index].name} failed {MAX_ATTEMPTS} times in a row; "
            f"first reason: {self._skips.reason(self._first_row[index])}"
        )

    def _checked_length(self, data: SequenceDataset, name: str) -> int:
        length = data.num_frames(name)
        if length < self._sampling.min_length:
            raise DataError(name, "frames", f"has {length}, but a clip needs {self._sampling.min_length}")
        return length

    def _skip(self, row: int, error: DataError, is_permanent: bool) -> None:
        if self._strict:
            raise error
        self._skips.record(row, str(error), is_permanent)


def describe_skipped(sequences: Sequence[SkippedSequence]) -> str:
    """Describe skipped sequences.

    Args:
        sequences: The skipped sequences.

    Returns:
        One line for each sequence with the number of times and the first reason.
    """
    lines = []
    for sequence in sequences:
        times = "once" if sequence.count == 1 else f"{sequence.count} times"
        lines.append(f"{sequence.name} was skipped {times}: {sequence.reason}")
    return "\n".join(lines) or "no sequence was skipped"


class _SkipLog:
    """Number of skips and first reason of every sequence, in memory shared between a loader's workers and their parent.

    Every worker increments its own column, so no counter has two writers.
    """

    _NUM_WRITERS = 33
    _REASON_BYTES = 240

    def __init__(self, num_rows: int) -> None:
        self._counts = torch.zeros(num_rows, self._NUM_WRITERS, dtype=torch.int32).share_memory_()
        self._reasons = torch.zeros(num_rows, self._REASON_BYTES, dtype=torch.uint8).share_memory_()
        self._is_permanent = torch.zeros(num_rows, dtype=torch.bool).share_memory_()

    def record(self, row: int, reason: str, is_permanent: bool) -> None:
        """Count a skip and store its reason if it is the first."""
        if self.count(row) == 0:
            text = " ".join(reason.split()).encode()[: self._REASON_BYTES]
            self._reasons[row, : len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        self._is_permanent[row] = self._is_permanent[row] | is_permanent
        self.increment(row)

    def increment(self, row: int) -> None:
        """Count a skip whose reason is already stored."""
        worker = get_worker_info()
        self._counts[row, 0 if worker is None else 1 + worker.id % (self._NUM_WRITERS - 1)] += 1

    def is_permanent(self, row: int) -> bool:
        """Whether no clip of the sequence can be read."""
        return bool(self._is_permanent[row])

    def count(self, row: int) -> int:
        """Number of skips over all workers."""
        return int(self._counts[row].sum())

    def reason(self, row: int) -> str:
        """Reason of the first skip."""
        return bytes(self._reasons[row].tolist()).rstrip(b"\0").decode(errors="ignore")
