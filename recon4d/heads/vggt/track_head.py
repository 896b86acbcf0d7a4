"""VGGT's track head: feature maps of every frame at half resolution, and a point tracker on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from recon4d.heads.dpt import DptFeatures, DptFeaturesConfig
from recon4d.heads.vggt.tracker import TrackedPoints, Tracker, TrackerConfig


@dataclass(frozen=True)
class TrackHeadConfig:
    """Configuration of the track head; the defaults are VGGT's."""

    features: DptFeaturesConfig = DptFeaturesConfig()  # noqa: RUF009 - frozen
    """Configuration of the feature maps."""
    tracker: TrackerConfig = TrackerConfig()  # noqa: RUF009 - frozen
    """Configuration of the tracker."""
    query_stride: int = 14
    """Scenes contain tracks of every n-th pixel of an anchor along both axes."""


class TrackHead(nn.Module):
    """Tracks any pixels of any frame; `features` is computed once for all queries.

    Args:
        config: Configuration of the head.
        feature_widths: Channels of the patch tokens of each aggregator output layer.
        patch_size: Side of a patch in pixels.
    """

    def __init__(self, config: TrackHeadConfig, feature_widths: Sequence[int], patch_size: int) -> None:
        super().__init__()
        self.query_stride = config.query_stride
        self.features = DptFeatures(config.features, feature_widths, patch_size)
        self.tracker = Tracker(config.tracker)

    def reset_parameters(self) -> None:
        """Initialize the tracker so that points do not move."""
        self.tracker.reset_parameters()

    def forward(
        self,
        features: Float[Tensor, "batch time channels half_height half_width"],
        queries: Float[Tensor, "batch query 2"],
        query_frames: Int[Tensor, "batch"] | int = 0,
    ) -> TrackedPoints:
        """Track pixels of one frame of each clip through all frames.

        Args:
            features: Feature maps of all frames.
            queries: Pixels (x, y) of the full-resolution image.
            query_frames: Frame of the queries, for each clip or for all.

        Returns:
            Positions, visibility and confidence in every frame.
        """
        return self.tracker(features, queries, query_frames)
