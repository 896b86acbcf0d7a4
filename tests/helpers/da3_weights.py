"""Small weights with the published names of Depth Anything 3, for tests that do not check numbers."""

from functools import cache
from typing import Literal

import torch
from named_weights import named_state_dict
from torch import Tensor

from recon4d.heads import DualDptHeadConfig, SkyDptHeadConfig
from recon4d.models import ModelConfig, MonoModelConfig
from recon4d.zoo import empty_model
from recon4d.zoo.da3.any_view import _config
from recon4d.zoo.da3.mono import _config as _mono_config
from recon4d.zoo.da3.names import VIT, any_view_name, mono_name
from recon4d.zoo.da3.presets import Size

TINY = Size(64, 12)
"""One attention head in the vision transformer, and 12 blocks, so that the outputs are known."""
Shapes = dict[str, list[int]]


def tiny_config(kind: Literal["even", "odd"] = "even") -> ModelConfig:
    """Return an any-view configuration; `odd` has gated MLPs and cameras from an odd block, as the giant."""
    dense = DualDptHeadConfig((16, 16, 32, 32), 16)
    return _config(TINY, 3, "swiglu", 96, dense, 2) if kind == "odd" else _config(TINY, 4, "gelu", 128, dense, 2)


def tiny_mono_config(metric: bool = False) -> MonoModelConfig:
    """Return a monocular configuration."""
    return _mono_config(TINY, 128, SkyDptHeadConfig((16, 16, 32, 32), 16), metric)


def tiny_state_dict(kind: Literal["even", "odd", "mono", "nested"] = "even") -> dict[str, Tensor]:
    """Create weights by name, as they are in published files."""
    return {name: value.clone() for name, value in _tiny_state_dict(kind).items()}


@cache
def _tiny_state_dict(kind: str) -> dict[str, Tensor]:
    if kind == "nested":
        parts = (("da3.", any_view_shapes(tiny_config("odd"))), ("da3_metric.", mono_shapes(tiny_mono_config())))
        shapes = {f"model.{part}{name}": shape for part, inner in parts for name, shape in inner.items()}
    else:
        inner = mono_shapes(tiny_mono_config()) if kind == "mono" else any_view_shapes(tiny_config(kind))  # pyright: ignore[reportArgumentType]
        shapes = {f"model.{name}": shape for name, shape in inner.items()}
    state_dict = named_state_dict(shapes, 0)
    for name, value in state_dict.items():
        if name.endswith("cam_dec.fc_fov.0.bias"):
            value.add_(1.5)
    return state_dict


def any_view_shapes(config: ModelConfig) -> Shapes:
    """List the published names of a model with their shapes, without the prefix of files."""
    shapes = {}
    for name, value in empty_model(config).state_dict().items():
        shape = list(value.shape)
        if name == "aggregator.special_tokens":
            shapes[f"{VIT}camera_token"] = [1, 2, shape[2]]
        elif name.startswith("backbone.") and len(name.split(".")) == 2:
            shapes |= _tokens(name, shape)
        else:
            blocks: int = config.backbone.blocks  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]
            shapes[any_view_name(name, blocks, config.aggregator.block.mlp == "swiglu")] = shape
    return _with_all_ray_levels(shapes)


def mono_shapes(config: MonoModelConfig) -> Shapes:
    """List the published names of a monocular model with their shapes, without the prefix of files."""
    shapes = {}
    for name, value in empty_model(config).state_dict().items():
        is_token = name.startswith("backbone.") and len(name.split(".")) == 2
        shapes |= _tokens(name, list(value.shape)) if is_token else {mono_name(name): list(value.shape)}
    return shapes


def count(shapes: Shapes) -> int:
    """Count the numbers in a state dict."""
    return sum(int(torch.tensor(shape).prod()) for shape in shapes.values())


def _tokens(name: str, shape: list[int]) -> Shapes:
    if name == "backbone.class_token":
        return {f"{VIT}cls_token": [1, 1, *shape]}
    return {f"{VIT}pos_embed": [1, *shape]}


def _with_all_ray_levels(shapes: Shapes) -> Shapes:
    """Add the levels of the ray head that are not used; safetensors keeps one LayerNorm for all levels."""
    used = {name: shape for name, shape in shapes.items() if "conv1_aux.3." in name or "conv2_aux.3." in name}
    for name, shape in used.items():
        for level in range(3):
            if ".3.2." not in name or level == 0 or "conv1" in name:
                shapes[name.replace("_aux.3.", f"_aux.{level}.")] = shape
        if "conv2_aux.3.2." in name:
            del shapes[name]
    return shapes
