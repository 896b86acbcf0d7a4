"""Construction of the parts that read the tokens of the side network, or of the network itself if there is none."""

from recon4d.heads import DENSE_HEADS, START_CHANNELS, MotionHead
from recon4d.layers import Matching
from recon4d.models.config import ModelConfig


def create_matching(config: ModelConfig, patch_size: int, eighth_channels: int) -> Matching | None:
    """Create the matching layer.

    Args:
        config: Configuration of the model.
        patch_size: Side of a patch in pixels.
        eighth_channels: Number of channels of backbone features at an eighth of the image size.

    Returns:
        The layer; None for a model without matching.
    """
    if config.matching is None:
        return None
    if config.side is None:
        return Matching(config.matching, config.aggregator.block.width, patch_size, eighth_channels)
    return Matching(config.matching, config.side.aggregator.block.width, patch_size, config.side.eighth_channels)


def create_motion_head(config: ModelConfig, patch_size: int, quarter_channels: int) -> MotionHead | None:
    """Create the motion head.

    Args:
        config: Configuration of the model.
        patch_size: Side of a patch in pixels.
        quarter_channels: Number of channels of backbone features at a quarter of the image size.

    Returns:
        The head; None for a model without dense tracks.
    """
    if config.motion is None:
        return None
    aggregator, dense = config.aggregator, config.dense
    if config.side is not None:
        aggregator, dense, quarter_channels = config.side.aggregator, config.side.dense, config.side.quarter_channels
    create_dense = DENSE_HEADS[type(dense)]
    widths = [config.motion.block.width] * (config.motion.blocks + 1)
    head = create_dense(dense, widths, patch_size, quarter_channels + START_CHANNELS, config.motion.channels)  # pyright: ignore[reportCallIssue]
    return MotionHead(config.motion, [2 * aggregator.block.width] * len(aggregator.out_indices), head)
