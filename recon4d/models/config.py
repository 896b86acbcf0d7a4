"""Everything that decides a model's shape."""

from dataclasses import dataclass, field

from recon4d.heads import (
    DENSE_FIELDS,
    CameraConfig,
    DenseHeadConfig,
    MotionHeadConfig,
    TrackHeadConfig,
)
from recon4d.layers import MatchingConfig
from recon4d.models.aggregator import AggregatorConfig
from recon4d.models.backbones import BackboneConfig
from recon4d.records.configs import FILE_KEY


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of each part; a checkpoint carries it. Parts that may be None are left out then."""

    backbone: BackboneConfig
    aggregator: AggregatorConfig
    matching: MatchingConfig | None
    camera: CameraConfig
    dense: DenseHeadConfig
    motion: MotionHeadConfig | None
    """Tracks every pixel of an anchor frame; it starts from what was matched."""
    processing_size: int
    """Pictures are processed at about the area of a square of this side, in pixels."""
    dense_groups: tuple[tuple[str, ...], ...] = (("depth", "points", "moving"),)
    """Which fields share a dense head. Without points, they are those of depth and cameras; moving may be missing."""
    track: TrackHeadConfig | None = None
    """Tracks pixels that are asked for, in the pictures."""
    prior_inputs: bool = field(default=True, metadata={FILE_KEY: "known_inputs"})
    """Whether known intrinsics, cameras and depth can be told."""

    def __post_init__(self) -> None:
        fields = [name for group in self.dense_groups for name in group]
        if len(set(fields)) < len(fields) or "depth" not in fields or not set(fields) <= set(DENSE_FIELDS):
            raise ValueError(
                f"dense groups {self.dense_groups} must hold depth, and each of {sorted(DENSE_FIELDS)} at most once"
            )
        if self.motion is not None and self.matching is None:
            raise ValueError("a motion head starts from matches: it needs a matching configuration")
