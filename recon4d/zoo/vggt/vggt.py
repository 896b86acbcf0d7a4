"""VGGT's published weights (Wang et al. 2025) in this network: the configuration from their shapes, tensor by name."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

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
from recon4d.zoo.vggt.names import VGGT, renamed

TAPS = (4, 11, 17, 23)
PROCESSING_SIZE = 420
"""A landscape picture of 3:2 then has about 518 x 336 pixels, as these weights are used."""
HEAD_WIDTH = 64
"""Of the aggregator; its number of heads cannot be seen in the shapes."""
CAMERA_HEADS = 16
BACKBONES = {384: "vit_small_patch14_reg4_dinov2", 768: "vit_base_patch14_reg4_dinov2"}
BACKBONES |= {1024: "vit_large_patch14_reg4_dinov2", 1536: "vit_giant_patch14_reg4_dinov2"}
"""timm's names by width."""
UNUSED = ("aggregator.patch_embed.mask_token",)
"""Only the backbone's own training needs it."""


def from_vggt(state_dict: Mapping[str, Tensor], taps: Sequence[int] = TAPS) -> Model:
    """The model of a state dict in VGGT's names, of any width and depth; tensors are shared, not copied.

    `taps` are the pairs of blocks that the heads see, 0 being the first: they cannot be seen in the shapes.
    Raises ``ValueError`` with the first few names that are missing, unknown or of another shape than expected.
    """
    published = PublishedWeights(state_dict, "VGGT")
    model = empty_model(_config_of(published, tuple(taps)))
    state = {name: _tensor(published, name, value.shape) for name, value in model.state_dict().items()}
    published.check(UNUSED)
    model.load_state_dict(state, strict=True, assign=True)
    model.name, model.trained = "vggt", True
    return model.eval()


def vggt_1b_config() -> ModelConfig:
    """The published model of 1.26 billion parameters."""
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


def _config_of(published: PublishedWeights, taps: tuple[int, ...]) -> ModelConfig:
    """The configuration whose parts have the shapes of the published tensors."""
    _, _, registers, width = published.shape("aggregator.register_token")
    pairs = published.count("aggregator.global_blocks.")
    if max(taps) >= pairs:
        raise ValueError(f"taps {taps} of {pairs} pairs of blocks; wanted numbers from 0 to {pairs - 1}")
    backbone_width = published.shape("aggregator.patch_embed.cls_token")[-1]
    if backbone_width not in BACKBONES:
        raise ValueError(f"no DINOv2 backbone is {backbone_width} wide; there are {sorted(BACKBONES)}")
    camera_width = published.shape("camera_head.token_norm.weight")[0]
    mlp_width = published.shape("aggregator.global_blocks.0.mlp.fc1.weight")[0]
    camera_mlp_width = published.shape("camera_head.trunk.0.mlp.fc1.weight")[0]
    return _config(
        backbone=DinoBackboneConfig(BACKBONES[backbone_width], published.count("aggregator.patch_embed.blocks.")),
        aggregator=AggregatorConfig(
            _block(width, width // HEAD_WIDTH, mlp_width, qk_norm="layer"),
            pairs,
            taps,
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
    """What all sizes have in common: no matching, and a head for each dense field."""
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
    """What the published checkpoint has for the parameter `name` of our model."""
    width = shape[-1]
    if name == "backbone.vit.cls_token":
        # timm keeps the class token's position in the token itself.
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
        theirs = renamed(f"{attention}.in_proj_{kind}", VGGT)
        together = published.take(theirs, (3 * track_width, *shape[1:]))
        return together[:track_width] if part == "q" else together[track_width:]
    return published.take(renamed(name, VGGT), shape)


def _positions(published: PublishedWeights, width: int) -> Tensor:
    """The learned positions of the class token and of 37 x 37 patches."""
    return published.take("aggregator.patch_embed.pos_embed", (1, 1 + 37 * 37, width))
