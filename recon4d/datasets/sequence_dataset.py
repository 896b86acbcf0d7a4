"""The interface of a data set on disk: named sequences, and a clip with ground truth from any frames of a sequence."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from recon4d.datasets.sample import Sample
from recon4d.errors import DataError


class SequenceDataset(ABC):
    """A data set of sequences whose frames are numbered from 0.

    The constructor takes the folder of the data set, and a split if the data set has splits. It only lists the
    sequences. It raises `UserError` if the folder is missing or holds no such data set.
    """

    paths: Mapping[str, Path] = {}
    """Folder or file of each sequence, by name; not used by data sets that override `names`."""

    def names(self) -> list[str]:
        """List the names of all sequences, sorted.

        Returns:
            Names accepted by `num_frames` and `read`. Damaged sequences may be included.
        """
        return sorted(self.paths)

    def path(self, name: str) -> Path:
        """Look up the folder or file of a sequence.

        Args:
            name: Name of the sequence, one of `paths`.

        Returns:
            The folder or file.

        Raises:
            DataError: If there is no such sequence.
        """
        if name not in self.paths:
            raise DataError(name, "data set", f"has no such sequence; the first one is {min(self.paths)}")
        return self.paths[name]

    @abstractmethod
    def num_frames(self, name: str) -> int:
        """Count the frames of a sequence.

        Args:
            name: Name of the sequence, one of `names`.

        Returns:
            Number of frames.

        Raises:
            DataError: If there is no such sequence or its files are missing or damaged.
        """

    @abstractmethod
    def read(self, name: str, frames: Sequence[int], anchors: tuple[int, ...] = (0,)) -> Sample:
        """Read a clip and its ground truth.

        Args:
            name: Name of the sequence, one of `names`.
            frames: Frame numbers in the order of the clip, each at least 0 and less than `num_frames`.
            anchors: Positions in `frames` at which tracks are queried. Every track is a query of every anchor.

        Returns:
            The clip and its scene, in the coordinates of the first frame's camera.

        Raises:
            DataError: If there is no such sequence, or a file is missing, damaged, of the wrong shape or not finite.
            ValueError: If `frames` or `anchors` are out of range.
        """

    def check_frames(self, name: str, frames: Sequence[int], anchors: tuple[int, ...]) -> None:
        """Check that frames and anchors exist.

        Args:
            name: Name of the sequence.
            frames: Frame numbers in the sequence.
            anchors: Positions in `frames`.

        Raises:
            DataError: If the sequence cannot be read or has no frames.
            ValueError: If there are no frames, or a frame or an anchor is out of range.
        """
        count = self.num_frames(name)
        if count == 0:
            raise DataError(name, "sequence", "has no frames")
        if not frames or any(frame not in range(count) for frame in frames):
            raise ValueError(f"frames {list(frames)} of {name} are out of range; it has frames 0 to {count - 1}")
        if any(anchor not in range(len(frames)) for anchor in anchors):
            raise ValueError(f"anchors {list(anchors)} are out of range; the clip has frames 0 to {len(frames) - 1}")
