"""Several data sets mixed by weight, and what becomes of sequences that are broken or too short."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import get_worker_info

from recon4d.datasets.sample import Sample, as_static
from recon4d.datasets.sampling import (
    ClipChoice,
    choose_anchor,
    choose_frames,
    random_numbers,
    without_times,
)
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.errors import DataError

ATTEMPTS = 16
"""How many seeds are tried of a source that makes its own samples before it is called broken."""


@runtime_checkable
class SampleSource(Protocol):
    """Anything that makes a sample out of a seed, the same sample from the same seed: a mixture, a synthetic world."""

    def sample(self, seed: int, /) -> Sample: ...


@dataclass(frozen=True)
class Source:
    """A data set, or whatever makes samples, and how often it is drawn relative to the other parts."""

    name: str
    source: SequenceDataset | SampleSource
    weight: float = 1.0
    static: bool = False
    """Whether nothing ever moves in it, which its files need not say (`standing_still`)."""


class Mixture:
    """Clips drawn from several sets by weight; the set, the sequence and the frames are functions of the seed.

    A sequence that is broken (`DataError`) or too short is skipped and counted, and another one of the same set is
    drawn, so that the weights stay as asked; with `strict` it is raised instead. Of a length that cannot be told or
    does not suffice is remembered that no frames will do. A file that cannot be read may be only one of many: other
    clips of its sequence are still tried, because what a seed gives must not depend on what was drawn before.

    Tracks start at `anchors` (places in the clip); None lets `choice` draw one, as a function of the seed too.
    """

    def __init__(
        self,
        parts: tuple[Source, ...],
        choice: ClipChoice,
        anchors: tuple[int, ...] | None = None,
        strict: bool = False,
    ) -> None:
        """Raises ``ValueError`` for no parts, weights that are not above 0, and a set without sequences."""
        if not parts or any(not 0 < part.weight < np.inf for part in parts):
            raise ValueError(f"weights {[part.weight for part in parts]}; wanted at least one, each above 0")
        self._parts = parts
        self._choice = choice
        self._anchors = anchors
        self._strict = strict
        self._names = [part.source.names() if isinstance(part.source, SequenceDataset) else [""] for part in parts]
        empty = [part.name for part, names in zip(parts, self._names, strict=True) if not names]
        if empty:
            raise ValueError(f"{', '.join(empty)} has no sequences")
        self._first_row = np.cumsum([0, *(len(names) for names in self._names)]).tolist()
        self._skipped = _Skipped(self._first_row[-1])
        self._bounds = np.cumsum([part.weight for part in parts]) / sum(part.weight for part in parts)

    def sample(self, seed: int) -> Sample:
        """The sample of a seed. Raises ``ValueError`` where every sequence of the drawn set was skipped."""
        drawn = int(np.searchsorted(self._bounds[:-1], random_numbers(seed, "set").random(), side="right"))
        part = self._parts[drawn]
        if isinstance(part.source, SequenceDataset):
            sample = self._from_sequences(drawn, part.source, seed)
        else:
            sample = self._from_source(drawn, part.source, seed)
        return as_static(sample) if part.static else sample

    def report(self) -> str:
        """One line for every sequence skipped so far, in this process and the workers of its loaders, and why."""
        lines = []
        for part, names, first in zip(self._parts, self._names, self._first_row, strict=False):
            for row, name in enumerate(names, start=first):
                count = self._skipped.count(row)
                if count:
                    times = "once" if count == 1 else f"{count} times"
                    label = f"{part.name}/{name}" if name else part.name
                    lines.append(f"{label} was skipped {times}: {self._skipped.reason(row)}")
        return "\n".join(lines) or "no sequence was skipped"

    def _from_sequences(self, drawn: int, source: SequenceDataset, seed: int) -> Sample:
        names, first = self._names[drawn], self._first_row[drawn]
        for place in random_numbers(seed, "sequence").permutation(len(names)).tolist():
            if self._skipped.is_final(first + place):
                self._skipped.again(first + place)
                continue
            try:
                length = self._sufficient_length(source, names[place])
            except DataError as error:
                self._skip(first + place, error, final=True)
                continue
            # Every sequence has its own numbers: those skipped before it do not move its frames.
            frames = choose_frames(self._choice, length, random_numbers(seed, f"frames of {names[place]}"))
            anchors = self._anchors
            if anchors is None:
                anchors = (choose_anchor(self._choice, random_numbers(seed, "anchor")),)
            try:
                sample = source.read(names[place], frames.numbers, anchors)
            except DataError as error:
                self._skip(first + place, error, final=False)
                continue
            return without_times(sample) if frames.unordered else sample
        raise ValueError(
            f"all {len(names)} sequences of {self._parts[drawn].name} had to be skipped, "
            f"the first because of {self._skipped.reason(first)}"
        )

    def _from_source(self, drawn: int, source: SampleSource, seed: int) -> Sample:
        seeds = random_numbers(seed, "source").integers(2**63, size=ATTEMPTS).tolist()
        for own_seed in seeds:
            try:
                return source.sample(own_seed)
            except DataError as error:
                self._skip(self._first_row[drawn], error, final=False)
        raise ValueError(
            f"{self._parts[drawn].name} failed {ATTEMPTS} times in a row, "
            f"first because of {self._skipped.reason(self._first_row[drawn])}"
        )

    def _sufficient_length(self, source: SequenceDataset, name: str) -> int:
        length = source.num_frames(name)
        if length < self._choice.shortest:
            raise DataError(name, "frames", f"has {length}, a clip needs {self._choice.shortest}")
        return length

    def _skip(self, row: int, error: DataError, final: bool) -> None:
        if self._strict:
            raise error
        self._skipped.note(row, str(error), final)


class _Skipped:
    """How often each sequence was skipped and why, in memory that the workers of a loader share with their parent.

    Every worker counts in a column of its own, so that no two ever write to one number.
    """

    _WRITERS = 33
    _REASON_BYTES = 240

    def __init__(self, rows: int) -> None:
        self._counts = torch.zeros(rows, self._WRITERS, dtype=torch.int32).share_memory_()
        self._reasons = torch.zeros(rows, self._REASON_BYTES, dtype=torch.uint8).share_memory_()
        self._final = torch.zeros(rows, dtype=torch.bool).share_memory_()

    def note(self, row: int, reason: str, final: bool) -> None:
        """Count a skip; the first reason is the one that is kept."""
        if self.count(row) == 0:
            text = " ".join(reason.split()).encode()[: self._REASON_BYTES]
            self._reasons[row, : len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        self._final[row] = self._final[row] | final
        self.again(row)

    def again(self, row: int) -> None:
        worker = get_worker_info()
        self._counts[row, 0 if worker is None else 1 + worker.id % (self._WRITERS - 1)] += 1

    def is_final(self, row: int) -> bool:
        return bool(self._final[row])

    def count(self, row: int) -> int:
        return int(self._counts[row].sum())

    def reason(self, row: int) -> str:
        return bytes(self._reasons[row].tolist()).rstrip(b"\0").decode(errors="ignore")
