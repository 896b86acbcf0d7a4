"""What every data set on disk offers: sequences by name, and a clip with its truth from any frames of one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from recon4d.datasets.sample import Sample


class SequenceDataset(ABC):
    """A data set of sequences, each with frames numbered from 0.

    Constructed with the folder of the data set (and a split where it has some); construction only looks for names and
    raises ``FileNotFoundError`` or ``ValueError`` where there is no such data set.
    """

    @abstractmethod
    def names(self) -> list[str]:
        """The sequences there are, sorted."""

    @abstractmethod
    def num_frames(self, name: str) -> int:
        """How many frames a sequence has. Raises `DataError` where that cannot be told."""

    @abstractmethod
    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """The clip of these frames and its truth; `anchors` are places in `frames`.

        Raises `DataError` for what is missing, damaged, of the wrong shape or not finite, and ``ValueError`` for
        frames that the sequence does not have.
        """

    def check_frames(self, name: str, frames: Sequence[int], anchors: tuple[int, ...]) -> None:
        """Refuse frames and anchors that are not there, in one line."""
        count = self.num_frames(name)
        if not frames or any(frame not in range(count) for frame in frames):
            raise ValueError(f"{name} has frames 0 to {count - 1}, asked for {list(frames)}")
        if any(anchor not in range(len(frames)) for anchor in anchors):
            raise ValueError(f"anchors {list(anchors)} must be places in the {len(frames)} frames")
