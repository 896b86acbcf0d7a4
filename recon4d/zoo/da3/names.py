"""Names of this package's parameters in the published checkpoints of Depth Anything 3."""

import re

from recon4d.zoo.vggt.names import BLOCKS, PYRAMIDS, Rule, published_name

VIT = "backbone.pretrained."
"""Prefix of the vision transformer, which contains the blocks of the aggregator too."""
RAY_LEVEL = 3
"""Level of the ray head whose output is used; the published code computes levels 0 to 2 and discards them."""

PARTS: tuple[Rule, ...] = (
    (r"^backbone\.embed\.", f"{VIT}patch_embed.proj."),
    (r"^backbone\.(?!pretrained\.)", VIT),
    (r"^aggregator\.feature_norm\.", f"{VIT}norm."),
    (r"^camera_head\.hidden1\.", "cam_dec.backbone.0."),
    (r"^camera_head\.hidden2\.", "cam_dec.backbone.2."),
    (r"^camera_head\.center\.", "cam_dec.fc_t."),
    (r"^camera_head\.quaternion\.", "cam_dec.fc_qvec."),
    (r"^camera_head\.angles\.", "cam_dec.fc_fov.0."),
    (r"^camera_encoder\.(fc[12])\.", r"cam_enc.pose_branch.\1."),
    (r"^camera_encoder\.norm\.", "cam_enc.trunk_norm."),
    (r"^camera_encoder\.blocks\.", "cam_enc.trunk."),
    (r"^camera_encoder\.", "cam_enc."),
    (r"^dense_heads\.0\.", "head."),
)
RAYS: tuple[Rule, ...] = (
    (r"^head\.rays\.convolutions\.", f"head.scratch.output_conv1_aux.{RAY_LEVEL}."),
    (r"^head\.rays\.hidden\.", f"head.scratch.output_conv2_aux.{RAY_LEVEL}.0."),
    (r"^head\.rays\.norm\.", f"head.scratch.output_conv2_aux.{RAY_LEVEL}.2."),
    (r"^head\.rays\.out\.", f"head.scratch.output_conv2_aux.{RAY_LEVEL}.5."),
    (
        r"^head\.rays\.fusion\.(\d)\.",
        lambda found: f"head.scratch.refinenet{int(found[1]) + 1}_aux.",
    ),
    (r"^(head\.scratch\.refinenet\d_aux)\.out\.", r"\1.out_conv."),
)
DEPTH: tuple[Rule, ...] = (
    (r"^head\.hidden1\.", "head.scratch.output_conv1."),
    (r"^head\.hidden2\.", "head.scratch.output_conv2.0."),
    (r"^head\.out\.", "head.scratch.output_conv2.2."),
)
SKY: tuple[Rule, ...] = (
    (r"^head\.hidden\.", "head.scratch.output_conv1."),
    (r"^head\.depth_hidden\.", "head.scratch.output_conv2.0."),
    (r"^head\.depth_out\.", "head.scratch.output_conv2.2."),
    (r"^head\.sky_hidden\.", "head.scratch.sky_output_conv2.0."),
    (r"^head\.sky_out\.", "head.scratch.sky_output_conv2.2."),
)
SWIGLU: tuple[Rule, ...] = (
    (r"\.mlp\.fc1\.", ".mlp.w12."),
    (r"\.mlp\.fc2\.", ".mlp.w3."),
)


def any_view_name(name: str, first_camera_block: int, is_swiglu: bool) -> str:
    """Convert a parameter name of an any-view model to the published name.

    Args:
        name: Name of a parameter of this package.
        first_camera_block: Number of the published block where cameras enter: the first of the aggregator.
        is_swiglu: Whether the blocks of the vision transformer have gated MLPs.

    Returns:
        The published name, without the prefix of the whole model.
    """
    name = re.sub(
        r"^aggregator\.(leading_block|frame_blocks\.\d+|global_blocks\.\d+)\.",
        lambda found: f"{VIT}blocks.{_block_number(found[1], first_camera_block)}.",
        name,
    )
    name = published_name(name, (*PARTS, *RAYS, *DEPTH, *PYRAMIDS, *BLOCKS))
    return published_name(name, SWIGLU) if is_swiglu and name.startswith(VIT) else name


def mono_name(name: str) -> str:
    """Convert a parameter name of a monocular model to the published name.

    Args:
        name: Name of a parameter of this package.

    Returns:
        The published name, without the prefix of the whole model.
    """
    return published_name(re.sub(r"^head\.", "dense_heads.0.", name), (*PARTS, *SKY, *PYRAMIDS, *BLOCKS))


def _block_number(block: str, first: int) -> int:
    """Return the published number of a block of the aggregator; odd blocks attend across frames."""
    if block == "leading_block":
        return first
    kind, index = block.split(".")
    first_pair = first + first % 2
    return first_pair + 2 * int(index) + (kind == "global_blocks")
