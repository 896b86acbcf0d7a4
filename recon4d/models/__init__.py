"""The network: backbone, aggregator, prior encoder, matching and heads; images to a `Scene` in one forward pass."""

from recon4d.models.acceleration import cast_to_bfloat16, compile_blocks, is_bfloat16
from recon4d.models.aggregator import Aggregator, AggregatorConfig, AggregatorState
from recon4d.models.compilation import raise_recompile_limit
from recon4d.models.config import ModelConfig
from recon4d.models.feature_tracks import match_feature_tracks
from recon4d.models.memory import MemoryPlan, plan_memory
from recon4d.models.network import Model
from recon4d.models.outputs import Outputs

__all__ = [
    "Aggregator",
    "AggregatorConfig",
    "AggregatorState",
    "MemoryPlan",
    "Model",
    "ModelConfig",
    "Outputs",
    "cast_to_bfloat16",
    "compile_blocks",
    "is_bfloat16",
    "match_feature_tracks",
    "plan_memory",
    "raise_recompile_limit",
]
