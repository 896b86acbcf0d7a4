"""What backbone and aggregator made of a batch of clips: all that the heads see."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from recon4d.layers import Matches
from recon4d.models.aggregator import AggregatorState


@dataclass(frozen=True)
class Tokens:
    """The last state of the aggregator, and what else was found on the way."""

    state: AggregatorState
    grid: tuple[int, int]
    """Patches (rows, columns) of a picture."""
    quarter: Float[Tensor, "n quarter_channels quarter_height quarter_width"] | None
    """The backbone's finer features, where it has them, of all frames of all clips."""
    cells: Float[Tensor, "batch time cells channels"] | None
    """What was matched, where there is matching."""
    matches: Matches | None
    chunk: int
    """Heads take so many frames at once."""

    def patch_features(self) -> list[Float[Tensor, "n patches tap_width"]]:
        """The patches of every tap, of all frames of all clips."""
        return [tap[:, :, self.state.num_special :].flatten(0, 1) for tap in self.state.features]

    def frame_chunks(self) -> Iterator[slice]:
        """Which of all frames of all clips go together."""
        batch, time = self.state.tokens.shape[:2]
        return (slice(start, min(start + self.chunk, batch * time)) for start in range(0, batch * time, self.chunk))
