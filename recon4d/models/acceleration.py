"""Preparation of a model for inference: bfloat16 weights and compiled blocks."""

from typing import TypeVar

import torch
from torch import nn

from recon4d.heads import Pyramid
from recon4d.layers import Block, CrossBlock
from recon4d.models.backbones.dino import DinoBackbone
from recon4d.models.compilation import raise_recompile_limit
from recon4d.models.scene_model import SceneModel

AnyModel = TypeVar("AnyModel", bound=SceneModel)

MATRIX_LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
"""Layers that autocast runs in bfloat16."""


def cast_to_bfloat16(model: AnyModel) -> AnyModel:
    """Convert the weights that autocast casts in every pass to bfloat16, in place.

    Results under bfloat16 autocast stay the same bit for bit. Norms, layer scales, camera heads and the last layers of
    all heads keep float32, because they compute geometry. The model can no longer run in float32.

    Args:
        model: A float32 model.

    Returns:
        The same model.
    """
    parts: list[nn.Module] = [module for module in model.modules() if isinstance(module, Pyramid)]
    for trunk in model.trunks:
        parts += [module for module in trunk.modules() if isinstance(module, Block)]
        if isinstance(trunk, DinoBackbone):
            parts.append(trunk.vit)
    for part in parts:
        for module in part.modules():
            if isinstance(module, MATRIX_LAYERS):
                module.to(torch.bfloat16)
    return model


def compile_blocks(model: nn.Module) -> None:
    """Compile all transformer blocks of a network with `torch.compile`, in place; they compile on their first call.

    Args:
        model: A network.
    """
    raise_recompile_limit()
    for module in model.modules():
        if isinstance(module, Block | CrossBlock):
            module.compile()


def is_bfloat16(model: SceneModel) -> bool:
    """Check whether any weight of a model is bfloat16.

    Args:
        model: A model.

    Returns:
        True after `cast_to_bfloat16`.
    """
    return any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
