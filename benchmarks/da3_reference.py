"""The published code of Depth Anything 3, run beside this package; it is not a part of it.

Check out github.com/ByteDance-Seed/Depth-Anything-3 outside of this repository, and install einops, omegaconf and
addict.
"""

import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recon4d.models.backbones.dino import IMAGENET_MEAN, IMAGENET_STD

UNUSED = ("evo", "evo.core", "evo.core.trajectory")
"""Packages that the published code imports for what a pass of the network does not need."""


class Reference(nn.Module):
    """The published network of an any-view preset, with random weights.

    Args:
        checkout: Folder of the published code.
        preset: Preset such as "small".
    """

    def __init__(self, checkout: Path, preset: str) -> None:
        super().__init__()
        self.network = _create(checkout, preset).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the depth of uint8 images (batch, time, 3, height, width)."""
        mean, std = (
            images.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        return self.network((images / 255 - mean) / std).depth

    def published_state_dict(self) -> dict[str, Tensor]:
        """Return the weights with the names of published files."""
        return {f"model.{name}": value for name, value in self.network.state_dict().items()}


def _create(checkout: Path, preset: str) -> Any:
    source = checkout / "src"
    if str(source) not in sys.path:
        sys.path.insert(0, str(source))
    for name in UNUSED:
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["evo.core.trajectory"].PosePath3D = object  # pyright: ignore[reportAttributeAccessIssue]
    from depth_anything_3.cfg import create_object, load_config  # pyright: ignore[reportMissingImports]

    return create_object(load_config(str(source / "depth_anything_3" / "configs" / f"da3-{preset}.yaml")))
