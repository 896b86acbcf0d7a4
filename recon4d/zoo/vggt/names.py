"""Names of this package's parameters in the published checkpoints of the VGGT family."""

import re
from collections.abc import Callable

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A regular expression for our names, and its replacement."""


def published_name(name: str, rules: tuple[Rule, ...]) -> str:
    """Convert a parameter name of this package to the name in a published checkpoint.

    Args:
        name: Name of a parameter of this package.
        rules: Regular expressions with their replacements, applied in turn.

    Returns:
        The published name.
    """
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _from_one(pattern: str) -> Callable[[re.Match[str]], str]:
    """Fill a pattern with a number counted from 1; ours count from 0."""
    return lambda found: pattern.format(int(found[1]) + 1)


BLOCKS: tuple[Rule, ...] = (
    (r"\.attention\.", ".attn."),
    (r"\.scale([12])\.", r".ls\1."),
)
PYRAMIDS: tuple[Rule, ...] = (
    (r"\.pyramid\.norm\.", ".norm."),
    (r"\.pyramid\.project\.", ".projects."),
    (r"\.pyramid\.resize\.", ".resize_layers."),
    (r"\.pyramid\.to_features\.(\d)\.", _from_one(".scratch.layer{}_rn.")),
    (r"\.pyramid\.fusion\.(\d)\.out\.", _from_one(".scratch.refinenet{}.out_conv.")),
    (r"\.pyramid\.fusion\.(\d)\.", _from_one(".scratch.refinenet{}.")),
    (r"\.refine_level\.", ".resConfUnit1."),
    (r"\.refine_sum\.", ".resConfUnit2."),
)
TRACKER: tuple[Rule, ...] = (
    (r"^track_head\.tracker\.update\.", "track_head.tracker.updateformer."),
    (r"\.updateformer\.input\.", ".updateformer.input_transform."),
    (r"\.updateformer\.output\.", ".updateformer.flow_head."),
    (r"\.virtual_tracks$", ".virual_tracks"),  # spelled like this in the checkpoint
    (r"\.virtual_blocks\.", ".space_virtual_blocks."),
    (r"\.(virtual_from_points\.\d+)\.attention\.", r".\1.cross_attn."),
    (r"\.(points_from_virtual\.\d+)\.attention\.", r".\1.cross_attn."),
    (r"\.virtual_from_points\.", ".space_virtual2point_blocks."),  # virtual tracks attend to points
    (r"\.points_from_virtual\.", ".space_point2virtual_blocks."),
    (r"(updateformer.*)\.attention\.qkv\.(weight|bias)$", r"\1.attn.in_proj_\2"),
    (r"(updateformer.*)\.(attention|cross_attn)\.proj\.", r"\1.\2.out_proj."),
    (r"\.tracker\.correlation\.0\.", ".tracker.corr_mlp.fc1."),
    (r"\.tracker\.correlation\.2\.", ".tracker.corr_mlp.fc2."),
    (r"\.tracker\.frame_tokens$", ".tracker.query_ref_token"),
    (r"\.tracker\.map_norm\.", ".tracker.fmap_norm."),
    (r"\.tracker\.feature_norm\.", ".tracker.ffeat_norm."),
    (r"\.tracker\.feature_update\.", ".tracker.ffeat_updater.0."),
    (r"\.tracker\.visibility\.", ".tracker.vis_predictor.0."),
    (r"\.tracker\.confidence\.", ".tracker.conf_predictor.0."),
)
VGGT: tuple[Rule, ...] = (
    (r"^backbone\.vit\.reg_token$", "aggregator.patch_embed.register_tokens"),
    (r"^backbone\.vit\.", "aggregator.patch_embed."),
    (r"^camera_head\.embed\.", "camera_head.embed_pose."),
    (r"^camera_head\.modulation\.", "camera_head.poseLN_modulation.1."),
    (r"^camera_head\.norm\.", "camera_head.trunk_norm."),
    (r"^camera_head\.hidden\.", "camera_head.pose_branch.fc1."),
    (r"^camera_head\.out\.", "camera_head.pose_branch.fc2."),
    (r"^camera_head\.blocks\.", "camera_head.trunk."),
    (r"^dense_heads\.0\.", "depth_head."),
    (r"^dense_heads\.1\.", "point_head."),
    (r"^track_head\.features\.out\.", "track_head.feature_extractor.scratch.output_conv1."),
    (r"^track_head\.features\.", "track_head.feature_extractor."),
    (r"^(depth|point)_head\.hidden1\.", r"\1_head.scratch.output_conv1."),
    (r"^(depth|point)_head\.hidden2\.", r"\1_head.scratch.output_conv2.0."),
    (r"^(depth|point)_head\.out\.", r"\1_head.scratch.output_conv2.2."),
    *PYRAMIDS,
    *TRACKER,
    *BLOCKS,
)
VGGT_OMEGA: tuple[Rule, ...] = (
    (r"^backbone\.embed\.", "aggregator.patch_embed.patch_embed.proj."),
    (r"^backbone\.rotary\.", "aggregator.patch_embed.rope_embed."),
    (r"^backbone\.", "aggregator.patch_embed."),
    (r"^aggregator\.rotary\.", "aggregator.rope_embed."),
    (r"^aggregator\.global_blocks\.", "aggregator.inter_frame_blocks."),
    (r"^camera_head\.norm\.", "camera_head.trunk_norm."),
    (r"^camera_head\.hidden\.", "camera_head.camera_branch.0."),
    (r"^camera_head\.out\.", "camera_head.camera_branch.2."),
    (r"^camera_head\.blocks\.", "camera_head.trunk."),
    (r"^dense_heads\.0\.", "dense_head."),
    *PYRAMIDS,
    *BLOCKS,
)
