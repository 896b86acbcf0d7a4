"""VGGT (Wang et al. 2025): the configuration from the shapes of published weights, and the conversion by name."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from recon4d.errors import UserError
from recon4d.heads import (
    DptFeaturesConfig,
    DptHeadConfig,
    IteratedCameraHeadConfig,
    TrackerConfig,
    TrackHeadConfig,
)
from recon4d.layers import BlockConfig
from recon4d.models import AggregatorConfig, Model, ModelConfig
from recon4d.models.backbones import DinoBackboneConfig
from recon4d.zoo.checkpoints import empty_model
from recon4d.zoo.published import PublishedWeights
from recon4d.zoo.vggt.names import VGGT, published_name

TAPS = (4, 11, 17, 23)
"""Blocks whose outputs the heads read, counted from 0 (as published)."""
PROCESSING_SIZE = 420
"""Square root of the image area in pixels: a 3:2 picture is processed at about 518 x 336, as published."""
HEAD_WIDTH = 64
"""Channels per attention head of the aggregator; the number of heads is not visible in the shapes."""
CAMERA_HEADS = 16
"""Attention heads of the camera head; not visible in the shapes."""
BACKBONES = {384: "vit_small_patch14_reg4_dinov2", 768: "vit_base_patch14_reg4_dinov2"}
BACKBONES |= {1024: "vit_large_patch14_reg4_dinov2", 1536: "vit_giant_patch14_reg4_dinov2"}
"""timm names of the backbones by width."""
UNUSED = ("aggregator.patch_embed.mask_token",)
"""Tensors that only the training of the backbone needs."""


def from_vggt(state_dict: Mapping[str, Tensor], taps: Sequence[int] = TAPS) -> Model:
    """Build a model from a state dict with VGGT's parameter names, of any width and depth.

    Args:
        state_dict: Published tensors by name. The model shares them where no conversion is needed.
        taps: Blocks whose outputs the heads read, counted from 0. They are not visible in the shapes.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: With the first names that are missing, unknown or of another shape than expected.
    """
    published = PublishedWeights(state_dict, "VGGT")
    model = empty_model(_config_of(published, tuple(taps)))
    state = {name: _tensor(published, name, value.shape) for name, value in model.state_dict().items()}
    published.check(UNUSED)
    model.load_state_dict(state, strict=True, assign=True)
    model.name, model.trained = "vggt", True
    return model.eval()


def vggt_1b_config() -> ModelConfig:
    """Return the configuration of the published model with 1.26 billion parameters.

    Returns:
        The configuration of VGGT-1B.
    """
    channels = (256, 512, 1024, 1024)
    return _config(
        backbone=DinoBackboneConfig(BACKBONES[1024], blocks=24),
        aggregator=AggregatorConfig(
            _block(1024, 1024 // HEAD_WIDTH, 4096, qk_norm="layer"), 24, TAPS, absolute_positions=False
        ),
        camera=IteratedCameraHeadConfig(_block(2048, CAMERA_HEADS, 8192, qk_norm="none")),
        dense=DptHeadConfig(channels, 256),
        track=TrackHeadConfig(DptFeaturesConfig(channels, 128)),
    )


def _config_of(published: PublishedWeights, out_indices: tuple[int, ...]) -> ModelConfig:
    """Derive the configuration from the shapes of the published tensors."""
    _, _, registers, width = published.shape("aggregator.register_token")
    depth = published.count("aggregator.global_blocks.")
    if max(out_indices) >= depth:
        raise UserError(f"taps are {out_indices}; wanted numbers of the {depth} blocks, from 0 to {depth - 1}")
    backbone_width = published.shape("aggregator.patch_embed.cls_token")[-1]
    if backbone_width not in BACKBONES:
        raise UserError(f"no DINOv2 backbone has width {backbone_width}; wanted one of {sorted(BACKBONES)}")
    camera_width = published.shape("camera_head.token_norm.weight")[0]
    mlp_width = published.shape("aggregator.global_blocks.0.mlp.fc1.weight")[0]
    camera_mlp_width = published.shape("camera_head.trunk.0.mlp.fc1.weight")[0]
    return _config(
        backbone=DinoBackboneConfig(BACKBONES[backbone_width], published.count("aggregator.patch_embed.blocks.")),
        aggregator=AggregatorConfig(
            _block(width, width // HEAD_WIDTH, mlp_width, qk_norm="layer"),
            depth,
            out_indices,
            registers,
            absolute_positions=False,
        ),
        camera=IteratedCameraHeadConfig(
            _block(camera_width, CAMERA_HEADS, camera_mlp_width, qk_norm="none"),
            blocks=published.count("camera_head.trunk."),
        ),
        dense=DptHeadConfig(*_pyramid_widths(published, "depth_head.")),
        track=_track_config(published) if published.has("track_head.tracker.query_ref_token") else None,
    )


def _config(
    backbone: DinoBackboneConfig,
    aggregator: AggregatorConfig,
    camera: IteratedCameraHeadConfig,
    dense: DptHeadConfig,
    track: TrackHeadConfig | None,
) -> ModelConfig:
    """Complete the configuration with what all sizes share: no matching, and one head per dense field."""
    return ModelConfig(
        backbone=backbone,
        aggregator=aggregator,
        matching=None,
        camera=camera,
        dense=dense,
        motion=None,
        processing_size=PROCESSING_SIZE,
        dense_groups=(("depth",), ("points",)),
        track=track,
        prior_inputs=False,
    )


def _block(width: int, heads: int, mlp_width: int, qk_norm: Literal["layer", "none"]) -> BlockConfig:
    return BlockConfig(width, heads, mlp_width, qk_norm, layer_scale=0.01, qkv_bias=True)


def _track_config(published: PublishedWeights) -> TrackHeadConfig:
    channels, features = _pyramid_widths(published, "track_head.feature_extractor.")
    update = "track_head.tracker.updateformer."
    return TrackHeadConfig(
        DptFeaturesConfig(channels, features),
        TrackerConfig(
            channels=features,
            width=published.shape(f"{update}input_transform.weight")[0],
            mlp_width=published.shape(f"{update}time_blocks.0.mlp.fc1.weight")[0],
            depth=published.count(f"{update}time_blocks."),
            virtual_tracks=published.shape(f"{update}virual_tracks")[1],
        ),
    )


def _pyramid_widths(published: PublishedWeights, head: str) -> tuple[tuple[int, int, int, int], int]:
    first, second, third, fourth = (published.shape(f"{head}projects.{level}.weight")[0] for level in range(4))
    return (first, second, third, fourth), published.shape(f"{head}scratch.layer1_rn.weight")[0]


def _tensor(published: PublishedWeights, name: str, shape: torch.Size) -> Tensor:
    """Return the published tensor for the parameter `name` of this package's model."""
    width = shape[-1]
    if name == "backbone.vit.cls_token":
        # timm adds the position of the class token to the token itself.
        return published.take("aggregator.patch_embed.cls_token", shape) + _positions(published, width)[:, :1]
    if name == "backbone.vit.pos_embed":
        return _positions(published, width)[:, 1:]
    if name == "aggregator.special_tokens":
        camera = published.take("aggregator.camera_token", (1, 2, 1, width))
        registers = published.take("aggregator.register_token", (1, 2, shape[1] - 1, width))
        return torch.cat([camera, registers], dim=2)[0]
    if name == "camera_head.empty_encoding":
        return published.take("camera_head.empty_pose_tokens", (1, 1, *shape))[0, 0]
    if found := re.fullmatch(r"(track_head\..*attention)\.(q|kv)\.(weight|bias)", name):
        attention, part, kind = found.groups()
        track_width = shape[0] if part == "q" else shape[0] // 2
        name_there = published_name(f"{attention}.in_proj_{kind}", VGGT)
        qkv = published.take(name_there, (3 * track_width, *shape[1:]))
        return qkv[:track_width] if part == "q" else qkv[track_width:]
    return published.take(published_name(name, VGGT), shape)


def _positions(published: PublishedWeights, width: int) -> Tensor:
    """Return the learned position embeddings of the class token and of 37 x 37 patches."""
    return published.take("aggregator.patch_embed.pos_embed", (1, 1 + 37 * 37, width))
