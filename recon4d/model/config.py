"""Everything that decides a model's shape."""

from dataclasses import dataclass

from recon4d.aggregator import AggregatorConfig
from recon4d.backbone import BackboneConfig
from recon4d.heads import DENSE_FIELDS, CameraHeadConfig, DenseHeadConfig, MotionHeadConfig
from recon4d.matching import MatchingConfig


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of each part; a checkpoint carries it."""

    backbone: BackboneConfig
    aggregator: AggregatorConfig
    matching: MatchingConfig
    camera: CameraHeadConfig
    dense: DenseHeadConfig
    motion: MotionHeadConfig
    processing_size: int
    """Pictures are processed at about the area of a square of this side, in pixels."""
    dense_groups: tuple[tuple[str, ...], ...] = (("depth", "points", "moving"),)
    """Which fields share a dense head."""

    def __post_init__(self) -> None:
        fields = sorted(field for group in self.dense_groups for field in group)
        if fields != sorted(DENSE_FIELDS):
            raise ValueError(f"dense groups {self.dense_groups} must hold each of {sorted(DENSE_FIELDS)} once")
