"""The track head: features of every frame at half its size, and the tracker that follows points through them."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d.heads.dpt import DptFeatures, DptFeaturesConfig
from recon4d.heads.vggt.tracker import TrackedPoints, Tracker, TrackerConfig


@dataclass(frozen=True)
class TrackHeadConfig:
    """The two parts of the head; the defaults are VGGT's."""

    features: DptFeaturesConfig = DptFeaturesConfig()  # noqa: RUF009 - frozen
    tracker: TrackerConfig = TrackerConfig()  # noqa: RUF009 - frozen
    query_stride: int = 14
    """Scenes have tracks of one pixel in so many each way of an anchor."""


class TrackHead(nn.Module):
    """Follows any pixels of any frame; `features` are made once for all queries."""

    def __init__(self, config: TrackHeadConfig, tap_widths: Sequence[int], patch_size: int) -> None:
        super().__init__()
        self.query_stride = config.query_stride
        self.features = DptFeatures(config.features, tap_widths, patch_size)
        self.tracker = Tracker(config.tracker)

    def reset_parameters(self) -> None:
        """Points stay where they are asked for."""
        self.tracker.reset_parameters()

    def forward(
        self,
        features: Float[Tensor, "batch time channels half_height half_width"],
        queries: Float[Tensor, "batch query 2"],
        query_frames: Int[Tensor, "batch"] | int = 0,
    ) -> TrackedPoints:
        """Where `queries`, pixels (x, y) of one frame of each clip, are in all frames."""
        return self.tracker(features, queries, query_frames)
