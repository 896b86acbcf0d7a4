"""Backbones: one picture in, patch tokens (and, where there are any, finer features) out."""

from torch import nn

from recon4d.backbone.convolutional import ConvolutionalBackbone, ConvolutionalBackboneConfig
from recon4d.backbone.dino import DinoBackbone, DinoBackboneConfig
from recon4d.backbone.features import Backbone, BackboneFeatures
from recon4d.backbone.rotary import RotaryBackbone, RotaryBackboneConfig

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
