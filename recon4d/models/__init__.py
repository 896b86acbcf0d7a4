"""The network: backbone, aggregator, prior encoder, matching and heads; images to a `Scene` in one forward pass."""

from recon4d.models.acceleration import cast_to_bfloat16, compile_blocks, is_bfloat16
from recon4d.models.aggregator import Aggregator, AggregatorConfig, AggregatorState
from recon4d.models.camera_encoder import check_cameras, has_all_cameras
from recon4d.models.compilation import raise_recompile_limit
from recon4d.models.config import ModelConfig
from recon4d.models.feature_tracks import match_feature_tracks
from recon4d.models.memory import MemoryPlan, plan_memory
from recon4d.models.mono import MonoModel, MonoModelConfig
from recon4d.models.nested import NestedModel, NestedModelConfig
from recon4d.models.network import Model
from recon4d.models.networks import NetworkConfig, create_network, predicts_dense_tracks, require_trainable
from recon4d.models.outputs import Outputs
from recon4d.models.reference_view import ReferenceView
from recon4d.models.scene_model import SceneModel
from recon4d.models.side_network import SideNetworkConfig
from recon4d.models.sky import is_ground

__all__ = [
    "Aggregator",
    "AggregatorConfig",
    "AggregatorState",
    "MemoryPlan",
    "Model",
    "ModelConfig",
    "MonoModel",
    "MonoModelConfig",
    "NestedModel",
    "NestedModelConfig",
    "NetworkConfig",
    "Outputs",
    "ReferenceView",
    "SceneModel",
    "SideNetworkConfig",
    "cast_to_bfloat16",
    "check_cameras",
    "compile_blocks",
    "create_network",
    "has_all_cameras",
    "is_bfloat16",
    "is_ground",
    "match_feature_tracks",
    "plan_memory",
    "predicts_dense_tracks",
    "raise_recompile_limit",
    "require_trainable",
]
