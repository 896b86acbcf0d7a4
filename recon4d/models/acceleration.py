"""A model made ready for inference: weights in less space, and compiled blocks."""

import torch
from torch import nn

from recon4d.heads import Pyramid
from recon4d.layers import Block, CrossBlock
from recon4d.models.backbones.dino import DinoBackbone
from recon4d.models.compilation import allow_many_graphs
from recon4d.models.network import Model

MATRICES = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def cast_to_bfloat16(model: Model) -> Model:
    """`model`, changed in place: matrices that autocast narrows in every pass are bfloat16 from now on.

    Answers under bfloat16 autocast stay the same bit for bit. Norms, layer scales, camera heads and the last layers
    of all heads keep float32, since geometry is made there. The model can no longer run in float32.
    """
    parts: list[nn.Module] = [module for module in model.modules() if isinstance(module, Pyramid)]
    for whole in (model.backbone, model.aggregator):
        parts += [module for module in whole.modules() if isinstance(module, Block)]
    if isinstance(model.backbone, DinoBackbone):
        parts.append(model.backbone.vit)
    for part in parts:
        for module in part.modules():
            if isinstance(module, MATRICES):
                module.to(torch.bfloat16)
    return model


def compile_blocks(model: nn.Module) -> None:
    """Let every transformer block inside compile itself when it is first run."""
    allow_many_graphs()
    for module in model.modules():
        if isinstance(module, Block | CrossBlock):
            module.compile()


def is_bfloat16(model: Model) -> bool:
    """Whether some weights are bfloat16."""
    return any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
