"""Backbones: an image in, patch tokens and, for some, finer feature maps out."""

from torch import nn

from recon4d.models.backbones.base import Backbone, BackboneFeatures
from recon4d.models.backbones.convolutional import ConvolutionalBackbone, ConvolutionalBackboneConfig
from recon4d.models.backbones.dino import DinoBackbone, DinoBackboneConfig
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
    "RotaryBackbone",
    "RotaryBackboneConfig",
    "create_backbone",
]


BackboneConfig = ConvolutionalBackboneConfig | DinoBackboneConfig | RotaryBackboneConfig

BACKBONES: dict[type, type[nn.Module]] = {
    ConvolutionalBackboneConfig: ConvolutionalBackbone,
    DinoBackboneConfig: DinoBackbone,
    RotaryBackboneConfig: RotaryBackbone,
}
"""A new backbone is one file and one line here."""


def create_backbone(config: BackboneConfig) -> Backbone:
    """The backbone that `config` describes, with fresh random weights."""
    backbone = BACKBONES[type(config)](config)
    assert isinstance(backbone, Backbone)
    return backbone
