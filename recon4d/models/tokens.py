"""Tokens of a batch of clips after backbone and aggregator: the input of the heads."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from recon4d.layers import Matches
from recon4d.models.aggregator import AggregatorState


@dataclass(frozen=True)
class Tokens:
    """Final state of the aggregator with the intermediate results that the heads use."""

    state: AggregatorState
    """Final state of the aggregator."""
    grid: tuple[int, int]
    """Number of patch rows and columns."""
    quarter: Float[Tensor, "n quarter_channels quarter_height quarter_width"] | None
    """Backbone features at a quarter of the image size for all frames of all clips; None if the backbone has none."""
    cell_features: Float[Tensor, "batch time cells channels"] | None
    """Cell features of the matching layer; None without matching."""
    matches: Matches | None
    """Matches of every frame to its neighbors; None without matching."""
    frame_chunk: int | None
    """Number of frames that dense heads process at once; None for all."""
    side: "Tokens | None" = None
    """Tokens of the side network; None without one."""

    @property
    def tracking(self) -> "Tokens":
        """Input of the dynamic mask and the motion head: the tokens of the side network, if there is one."""
        return self if self.side is None else self.side

    def patch_features(self) -> list[Float[Tensor, "n patches feature_width"]]:
        """Collect the patch tokens of the aggregator outputs.

        Returns:
            Features of all frames of all clips, one tensor for each output index.
        """
        return [features[:, :, self.state.num_special :].flatten(0, 1) for features in self.state.features]

    def frame_chunks(self) -> list[slice]:
        """Split all frames of all clips into chunks.

        Returns:
            Slices of at most `frame_chunk` frames.
        """
        return frame_slices(self.state.tokens.flatten(0, 1), self.frame_chunk)


def frame_slices(frames: Tensor, chunk: int | None) -> list[slice]:
    """Split frames, or pairs of frames, into chunks.

    Args:
        frames: A tensor with a first axis of frames. Their number is only read if there is a chunk, so that exported
            networks can leave it open.
        chunk: Largest number of frames in a chunk; None for all frames at once.

    Returns:
        Slices in order.
    """
    if chunk is None:
        return [slice(None)]
    return [slice(start, start + chunk) for start in range(0, len(frames), chunk)]
