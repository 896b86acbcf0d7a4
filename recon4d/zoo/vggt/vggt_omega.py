"""VGGT-Omega: the configuration from the shapes of published weights, and the conversion by name."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from recon4d.errors import UserError
from recon4d.heads import RegisterCameraHeadConfig, ShuffleHeadConfig
from recon4d.layers import BlockConfig
from recon4d.models import AggregatorConfig, Model, ModelConfig
from recon4d.models.backbones import RotaryBackboneConfig
from recon4d.zoo.checkpoints import empty_model
from recon4d.zoo.published import PublishedWeights
from recon4d.zoo.vggt.names import VGGT_OMEGA, published_name

TAPS = (4, 11, 17, 23)
"""Blocks whose outputs the heads read, counted from 0 (as published)."""
REGISTER_ATTENTION = (2, 6, 9, 14, 20)
"""Blocks whose global attention covers only camera and register tokens (as published); not visible in the shapes."""
HEAD_WIDTH = 64
"""Channels per attention head."""
CAMERA_HEADS = 16
"""Attention heads of the camera head; not visible in the shapes."""
BLOCKS_WITH_POSITIONS = r"(backbone\.blocks|aggregator\.frame_blocks|aggregator\.global_blocks)\.\d+\.attention\."
TEXT_HEAD = "text_alignment_head."
"""Prefix of the head that aligns scenes with language, which is not converted."""


def from_vggt_omega(
    state_dict: Mapping[str, Tensor],
    taps: Sequence[int] = TAPS,
    register_attention: Sequence[int] = REGISTER_ATTENTION,
) -> Model:
    """Build a model from a state dict with VGGT-Omega's parameter names, of any width and depth.

    Args:
        state_dict: Published tensors by name. The model shares them where no conversion is needed.
        taps: Blocks whose outputs the heads read, counted from 0. They are not visible in the shapes.
        register_attention: Blocks whose global attention covers only camera and register tokens, counted from 0.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: With the first names that are missing, unknown or of another shape than expected.
    """
    published = PublishedWeights(state_dict, "VGGT-Omega")
    model = empty_model(_config_of(published, tuple(taps), tuple(register_attention)))
    state = {name: _tensor(published, name, value.shape) for name, value in model.state_dict().items()}
    text = [name for name in state_dict if name.startswith(TEXT_HEAD)]
    published.check(["aggregator.patch_embed.mask_token", *text])
    model.load_state_dict(state, strict=True, assign=True)
    model.name, model.trained = "vggt_omega", True
    return model.eval()


def vggt_omega_1b_config() -> ModelConfig:
    """Return the configuration of the published model with 1.14 billion parameters, without its text head.

    Returns:
        The configuration of VGGT-Omega-1B.
    """
    return _config(
        backbone=RotaryBackboneConfig(_block(1024, 1024 // HEAD_WIDTH, 4096, qk_norm="none"), blocks=24),
        aggregator=_aggregator(
            _block(1024, 1024 // HEAD_WIDTH, 4096, qk_norm="layer"), 24, 16, TAPS, REGISTER_ATTENTION
        ),
        camera=RegisterCameraHeadConfig(_block(2048, CAMERA_HEADS, 8192, qk_norm="none")),
        dense=ShuffleHeadConfig(),
    )


def _config_of(
    published: PublishedWeights, out_indices: tuple[int, ...], register_attention: tuple[int, ...]
) -> ModelConfig:
    """Derive the configuration from the shapes of the published tensors."""
    _, _, registers, width = published.shape("aggregator.register_token")
    _, storage_tokens, backbone_width = published.shape("aggregator.patch_embed.storage_tokens")
    depth = published.count("aggregator.inter_frame_blocks.")
    if max(*out_indices, *register_attention) >= depth:
        raise UserError(
            f"taps are {out_indices}, register_attention is {register_attention}; wanted numbers of the {depth} blocks"
        )
    backbone_mlp = published.shape("aggregator.patch_embed.blocks.0.mlp.fc1.weight")[0]
    mlp_width = published.shape("aggregator.frame_blocks.0.mlp.fc1.weight")[0]
    camera_width = published.shape("camera_head.token_norm.weight")[0]
    camera_mlp = published.shape("camera_head.trunk.0.mlp.fc1.weight")[0]
    first, second, third, fourth = (published.shape(f"dense_head.projects.{level}.weight")[0] for level in range(4))
    return _config(
        backbone=RotaryBackboneConfig(
            _block(backbone_width, backbone_width // HEAD_WIDTH, backbone_mlp, qk_norm="none"),
            blocks=published.count("aggregator.patch_embed.blocks."),
            patch_size=published.shape("aggregator.patch_embed.patch_embed.proj.weight")[-1],
            prefix_tokens=1 + storage_tokens,
        ),
        aggregator=_aggregator(
            _block(width, width // HEAD_WIDTH, mlp_width, qk_norm="layer"),
            depth,
            registers,
            out_indices,
            register_attention,
        ),
        camera=RegisterCameraHeadConfig(
            _block(camera_width, CAMERA_HEADS, camera_mlp, qk_norm="none"),
            blocks=published.count("camera_head.trunk."),
        ),
        dense=ShuffleHeadConfig(
            (first, second, third, fourth), published.shape("dense_head.scratch.layer1_rn.weight")[0]
        ),
    )


def _config(
    backbone: RotaryBackboneConfig,
    aggregator: AggregatorConfig,
    camera: RegisterCameraHeadConfig,
    dense: ShuffleHeadConfig,
) -> ModelConfig:
    """Complete the configuration with what all sizes share: no matching, and depth as the only dense field."""
    return ModelConfig(
        backbone=backbone,
        aggregator=aggregator,
        matching=None,
        camera=camera,
        dense=dense,
        motion=None,
        processing_size=512,
        dense_groups=(("depth",),),
        prior_inputs=False,
    )


def _aggregator(
    block: BlockConfig, depth: int, registers: int, out_indices: tuple[int, ...], register_attention: tuple[int, ...]
) -> AggregatorConfig:
    return AggregatorConfig(
        block, depth, out_indices, registers, register_attention, absolute_positions=False, rotary="normalised"
    )


def _block(width: int, heads: int, mlp_width: int, qk_norm: Literal["layer", "none"]) -> BlockConfig:
    return BlockConfig(width, heads, mlp_width, qk_norm, layer_scale=1e-5, qkv_bias=True)


def _tensor(published: PublishedWeights, name: str, shape: torch.Size) -> Tensor:
    """Return the published tensor for the parameter `name` of this package's model."""
    if name == "backbone.prefix_tokens":
        cls_token = published.take("aggregator.patch_embed.cls_token", (1, 1, shape[1]))
        storage = published.take("aggregator.patch_embed.storage_tokens", (1, shape[0] - 1, shape[1]))
        return torch.cat([cls_token, storage], dim=1)[0]
    if name == "aggregator.special_tokens":
        camera = published.take("aggregator.camera_token", (1, 2, 1, shape[2]))
        registers = published.take("aggregator.register_token", (1, 2, shape[1] - 1, shape[2]))
        return torch.cat([camera, registers], dim=2)[0]
    if name.startswith("dense_heads.0.out."):
        # The published model has separate 1x1 convolutions for depth and confidence; ours has one for both.
        kind, half = name.rsplit(".", 1)[-1], (shape[0] // 2, *shape[1:])
        return torch.cat([published.take(f"dense_head.{part}.{kind}", half) for part in ("proj", "proj_conf")])
    tensor = published.take(published_name(name, VGGT_OMEGA), shape)
    if name.endswith(".attention.qkv.bias"):
        tensor = tensor * published.take(published_name(f"{name}_mask", VGGT_OMEGA), shape)
    if found := re.match(BLOCKS_WITH_POSITIONS, name):
        tensor = _reorder_head_channels(tensor, name[found.end() :])
    return tensor


def _reorder_head_channels(tensor: Tensor, part: str) -> Tensor:
    """Reorder the channels of queries and keys for the layout of our rotary embedding.

    The published layout of a head is (row, column, row, column) by quarters, with pairs across the two halves; ours is
    (row, row, column, column). Products of queries and keys are invariant if both are reordered.
    """
    if part.startswith("qkv."):
        query, key, value = tensor.chunk(3)
        return torch.cat([_swap_quarters(query), _swap_quarters(key), value])
    return _swap_quarters(tensor) if part.startswith(("q_norm.", "k_norm.")) else tensor


def _swap_quarters(rows: Tensor) -> Tensor:
    """Swap the two middle quarters of the rows of every head."""
    quarters = rows.unflatten(0, (-1, 4, HEAD_WIDTH // 4))
    return quarters[:, [0, 2, 1, 3]].flatten(0, 2)
