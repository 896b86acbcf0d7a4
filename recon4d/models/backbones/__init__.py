"""Backbones: images to patch tokens and, for some backbones, finer feature maps."""

from torch import nn

from recon4d.models.backbones.base import Backbone, BackboneFeatures
from recon4d.models.backbones.convolutional import ConvolutionalBackbone, ConvolutionalBackboneConfig
from recon4d.models.backbones.dino import DinoBackbone, DinoBackboneConfig
from recon4d.models.backbones.plain_vit import PlainVit, PlainVitConfig
from recon4d.models.backbones.rotary_vit import RotaryBackbone, RotaryBackboneConfig

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneConfig",
    "BackboneFeatures",
    "ConvolutionalBackbone",
    "ConvolutionalBackboneConfig",
    "DinoBackbone",
    "DinoBackboneConfig",
    "PlainVit",
    "PlainVitConfig",
    "RotaryBackbone",
    "RotaryBackboneConfig",
    "create_backbone",
]


BackboneConfig = ConvolutionalBackboneConfig | DinoBackboneConfig | PlainVitConfig | RotaryBackboneConfig

BACKBONES: dict[type, type[nn.Module]] = {
    ConvolutionalBackboneConfig: ConvolutionalBackbone,
    DinoBackboneConfig: DinoBackbone,
    PlainVitConfig: PlainVit,
    RotaryBackboneConfig: RotaryBackbone,
}
"""Backbone class of each configuration class."""


def create_backbone(config: BackboneConfig) -> Backbone:
    """Create a backbone with random weights.

    Args:
        config: Configuration, whose class selects the backbone.

    Returns:
        The backbone.
    """
    backbone = BACKBONES[type(config)](config)
    assert isinstance(backbone, Backbone)
    return backbone
