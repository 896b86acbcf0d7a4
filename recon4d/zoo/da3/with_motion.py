"""Any-view models of Depth Anything 3 with a side network: matching, dynamic mask and motion on frozen tokens."""

from dataclasses import dataclass, replace

from recon4d.heads import LinearHeadConfig, MotionHeadConfig
from recon4d.layers import BlockConfig, MatchingConfig
from recon4d.models import AggregatorConfig, ModelConfig, SideNetworkConfig


@dataclass(frozen=True)
class SideSize:
    """Size of a side network and of the layers that read it."""

    width: int
    """Number of channels of the tokens."""
    heads: int
    """Number of attention heads."""
    depth: int
    """Number of pairs of blocks of the aggregator."""
    matching_channels: int
    """Number of channels of the matching cells."""
    dense_width: int
    """Channels of the tokens of the dense heads."""
    dense_channels: int
    """Channels of the feature maps of the dense heads."""


TINY_SIDE = SideSize(width=128, heads=4, depth=2, matching_channels=64, dense_width=96, dense_channels=24)
"""Size beside the shrunk model, which a CPU trains. Hand-tuned."""
SIDE = SideSize(width=256, heads=4, depth=4, matching_channels=96, dense_width=160, dense_channels=48)
"""Size beside the published models: that of recon4d_mini, which was trained on the same scenes. Hand-tuned."""


def with_motion(frozen: ModelConfig, size: SideSize = SIDE) -> ModelConfig:
    """Add a side network, matching and a motion head to a configuration.

    Args:
        frozen: Configuration of a model that predicts cameras and depth.
        size: Size of the side network.

    Returns:
        The configuration; its other parts have the same parameters as those of `frozen`.
    """
    block = BlockConfig(size.width, size.heads, 5 * size.width // 2)
    return replace(
        frozen,
        matching=MatchingConfig(channels=size.matching_channels),
        motion=MotionHeadConfig(replace(block, mlp_width=3 * size.width // 2), lifted=True),
        side=SideNetworkConfig(
            AggregatorConfig(block, size.depth, out_indices=(0, size.depth - 1)),
            LinearHeadConfig(size.dense_width, size.dense_channels),
        ),
    )
