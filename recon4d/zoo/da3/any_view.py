"""Any-view models of Depth Anything 3: the configuration from the shapes of weights, and the conversion by name."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from recon4d.errors import UserError
from recon4d.heads import CameraDecoderConfig, DualDptHeadConfig
from recon4d.layers import BlockConfig
from recon4d.models import AggregatorConfig, Model, ModelConfig
from recon4d.models.backbones import PlainVitConfig
from recon4d.models.camera_encoder import CameraEncoderConfig
from recon4d.models.reference_view import ReferenceView
from recon4d.zoo.checkpoints import empty_model
from recon4d.zoo.da3.names import RAY_LEVEL, VIT, any_view_name
from recon4d.zoo.da3.presets import ANY_VIEW_SIZES, Size, outputs_of, size_of
from recon4d.zoo.published import PublishedWeights

PROCESSING_SIZE = 412
"""Square root of the image area in pixels: a 3:2 picture is processed at about 504 x 336, as published."""
TINY_PROCESSING_SIZE = 112
"""Square root of the image area in pixels that the shrunk model is trained at on a CPU. Hand-tuned."""
HEAD_WIDTH = 64
"""Channels per attention head of the vision transformer; the number of heads is not visible in the shapes."""
ENCODER_HEADS = 16
"""Attention heads of the camera encoder at any width; not visible in the shapes."""
BLOCK_EPSILON = 1e-6
"""Epsilon of the norms before attention and MLP (DINOv2); all other norms use 1e-5."""
RAY_NORM = "head.scratch.output_conv2_aux.{}.2.{}"
"""LayerNorm of a level of the ray head. All levels share it, so files of safetensors keep only that of level 0."""
GAUSSIANS = "gs_head."
"""Prefix of the head that predicts Gaussians, which is not converted."""
PUBLISHED_SHAPES: dict[str, tuple[int, tuple[int, int, int, int], int]] = {
    "small": (4, (48, 96, 192, 384), 64),
    "base": (4, (96, 192, 384, 768), 128),
    "large": (8, (256, 512, 1024, 1024), 256),
    "giant": (13, (256, 512, 1024, 1024), 256),
}
"""Block where cameras enter, channels and features of the head of each preset."""


def convert_any_view(published: PublishedWeights, reference_view: ReferenceView = "saddle_balanced") -> Model:
    """Build an any-view model.

    Args:
        published: Published weights without the prefix of the whole model.
        reference_view: How the reference frame is chosen.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: With the first names that are missing, unknown or of another shape than expected.
    """
    config = _config_of(published, reference_view)
    model = empty_model(config)
    state = {name: _tensor(published, name, value.shape, config) for name, value in model.state_dict().items()}
    _require_unused_levels(published)
    published.check(published.names(GAUSSIANS))
    model.load_state_dict(state, strict=True, assign=True)
    model.trained = True
    return model.eval()


def any_view_config(preset: Literal["small", "base", "large", "giant"]) -> ModelConfig:
    """Return the configuration of a published any-view model.

    Args:
        preset: Name of the preset.

    Returns:
        The configuration.
    """
    size = ANY_VIEW_SIZES[preset]
    first, channels, features = PUBLISHED_SHAPES[preset]
    mlp: Literal["gelu", "swiglu"] = "swiglu" if preset == "giant" else "gelu"
    mlp_width = 4096 if preset == "giant" else 4 * size.width
    return _config(size, first, mlp, mlp_width, DualDptHeadConfig(channels, features), encoder_blocks=4)


def tiny_config() -> ModelConfig:
    """Return the configuration of a shrunk any-view model: as many blocks as the small preset, half as wide.

    It has no published weights. A CPU trains it on synthetic scenes in an hour.

    Returns:
        The configuration.
    """
    dense = DualDptHeadConfig(channels=(24, 48, 96, 192), features=32)
    config = _config(Size(width=192, blocks=12), 4, "gelu", 768, dense, encoder_blocks=1, reference_view="first")
    return replace(config, processing_size=TINY_PROCESSING_SIZE)


def _config_of(published: PublishedWeights, reference_view: ReferenceView) -> ModelConfig:
    """Derive the configuration from the shapes of the published tensors."""
    size = size_of(published)
    mlp: Literal["gelu", "swiglu"] = "swiglu" if published.has(f"{VIT}blocks.0.mlp.w12.weight") else "gelu"
    mlp_width = published.shape(f"{VIT}blocks.0.mlp.{'w3' if mlp == 'swiglu' else 'fc2'}.weight")[1]
    first, second, third, fourth = (published.shape(f"head.projects.{level}.weight")[0] for level in range(4))
    dense = DualDptHeadConfig((first, second, third, fourth), published.shape("head.scratch.layer1_rn.weight")[0])
    encoder_blocks = published.count("cam_enc.trunk.")
    return _config(size, _first_camera_block(published, size), mlp, mlp_width, dense, encoder_blocks, reference_view)


def _first_camera_block(published: PublishedWeights, size: Size) -> int:
    """Return the number of the first block with norms of queries and keys: there cameras enter."""
    for block in range(size.blocks):
        if published.has(f"{VIT}blocks.{block}.attn.q_norm.weight"):
            if block < 2:
                break
            return block
    raise UserError(
        "this state dict does not fit Depth Anything 3: it has a camera_token, but no block after the second starts "
        "to have attn.q_norm"
    )


def _config(
    size: Size,
    first_camera_block: int,
    mlp: Literal["gelu", "swiglu"],
    mlp_width: int,
    dense: DualDptHeadConfig,
    encoder_blocks: int,
    reference_view: ReferenceView = "saddle_balanced",
) -> ModelConfig:
    outputs = outputs_of(size, is_mono=False)
    first_pair = first_camera_block + first_camera_block % 2
    return ModelConfig(
        backbone=PlainVitConfig(vit_block(size, mlp, mlp_width, "none"), first_camera_block),
        aggregator=AggregatorConfig(
            vit_block(size, mlp, mlp_width, "layer"),
            depth=(size.blocks - first_pair) // 2,
            out_indices=tuple((block - 1 - first_pair) // 2 for block in outputs),
            registers=0,
            absolute_positions=False,
            rotary="grid_in_frame",
            leading_global_block=first_pair > first_camera_block,
            normalized_features=True,
        ),
        matching=None,
        camera=CameraDecoderConfig(),
        dense=dense,
        motion=None,
        processing_size=PROCESSING_SIZE,
        dense_groups=(("depth",),),
        prior_inputs=False,
        camera_encoder=CameraEncoderConfig(
            BlockConfig(size.width, ENCODER_HEADS, 4 * size.width, qk_norm="none", layer_scale=0.01, qkv_bias=True),
            encoder_blocks,
        ),
        reference_view=reference_view,
    )


def vit_block(
    size: Size, mlp: Literal["gelu", "swiglu"], mlp_width: int, qk_norm: Literal["layer", "none"]
) -> BlockConfig:
    """Return the configuration of the blocks of the vision transformer.

    Args:
        size: Size of the vision transformer.
        mlp: Kind of the MLPs.
        mlp_width: Hidden channels of the MLPs.
        qk_norm: Normalization of queries and keys.

    Returns:
        The configuration.
    """
    return BlockConfig(
        size.width,
        size.width // HEAD_WIDTH,
        mlp_width,
        qk_norm,
        layer_scale=1.0,
        qkv_bias=True,
        norm_epsilon=BLOCK_EPSILON,
        mlp=mlp,
    )


def _tensor(published: PublishedWeights, name: str, shape: torch.Size, config: ModelConfig) -> Tensor:
    """Return the published tensor for the parameter `name` of this package's model."""
    if (tensor := vit_tensor(published, name, shape)) is not None:
        return tensor
    if name == "aggregator.special_tokens":
        return published.take(f"{VIT}camera_token", (1, *shape[::2])).transpose(0, 1)
    assert isinstance(config.backbone, PlainVitConfig)
    there = any_view_name(name, config.backbone.blocks, config.aggregator.block.mlp == "swiglu")
    if name.startswith("dense_heads.0.rays.norm.") and not published.has(there):
        there = RAY_NORM.format(0, name.rsplit(".", 1)[-1])
    return published.take(there, shape)


def vit_tensor(published: PublishedWeights, name: str, shape: torch.Size) -> Tensor | None:
    """Return the published class token or table of positions.

    Args:
        published: Published weights.
        name: Name of a parameter of this package's model.
        shape: Its shape.

    Returns:
        The tensor; None for all other names.
    """
    if name == "backbone.class_token":
        return published.take(f"{VIT}cls_token", (1, 1, *shape))[0, 0]
    if name == "backbone.positions":
        return published.take(f"{VIT}pos_embed", (1, *shape))[0]
    return None


def _require_unused_levels(published: PublishedWeights) -> None:
    """Mark the levels of the ray head that do not contribute to the result as used; they must be complete."""
    for level in range(RAY_LEVEL):
        layers = [f"output_conv1_aux.{level}.{layer}" for layer in range(5)]
        layers += [f"output_conv2_aux.{level}.{layer}" for layer in (0, 5)]
        for layer in layers:
            for kind in ("weight", "bias"):
                published.require(f"head.scratch.{layer}.{kind}")
    for level in range(RAY_LEVEL + 1):
        for kind in ("weight", "bias"):
            # Level 0 is in every file; the others are copies of it, if they are there.
            if level == 0 or published.has(RAY_NORM.format(level, kind)):
                published.require(RAY_NORM.format(level, kind))
