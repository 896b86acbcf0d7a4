"""The whole network: images in, a Scene out, put together from backbone, aggregator, matching and heads."""

from recon4d.model.config import ModelConfig
from recon4d.model.feature_tracks import match_feature_tracks
from recon4d.model.lean import compile_blocks, is_narrow, narrow_weights
from recon4d.model.memory import MemoryPlan, plan_memory
from recon4d.model.network import Model
from recon4d.model.outputs import Outputs

__all__ = [
    "MemoryPlan",
    "Model",
    "ModelConfig",
    "Outputs",
    "compile_blocks",
    "is_narrow",
    "match_feature_tracks",
    "narrow_weights",
    "plan_memory",
]
