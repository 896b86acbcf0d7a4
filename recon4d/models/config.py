"""Configuration of a model."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from recon4d.errors import UserError
from recon4d.heads import (
    DENSE_FIELDS,
    CameraConfig,
    DenseHeadConfig,
    DualDptHeadConfig,
    MotionHeadConfig,
    TrackHeadConfig,
)
from recon4d.layers import MatchingConfig
from recon4d.models.aggregator import AggregatorConfig
from recon4d.models.backbones import BackboneConfig
from recon4d.models.camera_encoder import CameraEncoderConfig
from recon4d.models.reference_view import ReferenceView, check_reference_view
from recon4d.models.side_network import SideNetworkConfig
from recon4d.records.configs import FILE_KEY

CameraSource = Literal["decoder", "rays"]
"""Where cameras come from: the camera head, or the rays of a DualDPT head."""


def check_camera_source(name: str) -> CameraSource:
    """Check that a source of cameras exists.

    Args:
        name: Name of a source.

    Returns:
        The same name.

    Raises:
        UserError: If there is no source with this name.
    """
    if name not in get_args(CameraSource):
        raise UserError(f"unknown camera source {name!r}; wanted decoder or rays")
    return name  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class ModelConfig:
    """Configuration of all parts of a model; stored in checkpoints.

    Raises:
        UserError: If the dense groups are inconsistent, a motion head or a side network has no matching layer, the
            reference view is unknown, or cameras are to come from rays that no head predicts.
    """

    backbone: BackboneConfig
    """Configuration of the backbone."""
    aggregator: AggregatorConfig
    """Configuration of the aggregator."""
    matching: MatchingConfig | None
    """Configuration of the matching layer; None for a model without matching."""
    camera: CameraConfig
    """Configuration of the camera head."""
    dense: DenseHeadConfig
    """Configuration of the dense heads."""
    motion: MotionHeadConfig | None
    """Configuration of the head that tracks every pixel of an anchor frame; it requires matching. None for no head."""
    processing_size: int
    """Images are processed at about the area of a square with this side, in pixels."""
    dense_groups: tuple[tuple[str, ...], ...] = (("depth", "points", "moving"),)
    """Groups of fields that share a dense head.

    "depth" is required. Without "points", point maps follow from depth and cameras. "moving" is the dynamic
    probability.
    """
    track: TrackHeadConfig | None = None
    """Configuration of the head that tracks query pixels through the images; None for no head."""
    prior_inputs: bool = field(default=True, metadata={FILE_KEY: "known_inputs"})
    """Whether the network accepts known intrinsics, cameras and depth as input."""
    camera_encoder: CameraEncoderConfig | None = None
    """Configuration of the encoder of given cameras that replaces camera tokens; None for no encoder."""
    reference_view: ReferenceView = "first"
    """How the reference frame is chosen; other frames than the first require a backbone with class tokens."""
    camera_source: CameraSource = "decoder"
    """Where cameras come from: the camera head, or the rays of a DualDPT head."""
    side: SideNetworkConfig | None = None
    """Configuration of the side network, which requires matching and predicts the dynamic probability. The rest of the
    network is then frozen in training. None for a network that is trained as a whole."""

    def __post_init__(self) -> None:
        fields = [name for group in self.dense_groups for name in group]
        if len(set(fields)) < len(fields) or "depth" not in fields or not set(fields) <= set(DENSE_FIELDS):
            raise UserError(
                f"dense groups {self.dense_groups} must contain depth, and each of {sorted(DENSE_FIELDS)} at most once"
            )
        if self.motion is not None and self.matching is None:
            raise UserError("a motion head requires matching: set the matching configuration")
        if self.side is not None and (self.matching is None or "moving" in fields):
            raise UserError("a side network requires matching, and predicts the dynamic probability itself")
        check_reference_view(self.reference_view)
        check_camera_source(self.camera_source)
        if self.camera_source == "rays" and not isinstance(self.dense, DualDptHeadConfig):
            raise UserError("cameras from rays require a DualDPT head, as Depth Anything 3 has; use the decoder")
