"""Models by name, and the checkpoint files they are saved to and loaded from."""

from recon4d.zoo.checkpoints import Storage, empty_model, save_model
from recon4d.zoo.da3.da3 import from_da3
from recon4d.zoo.hub import LicenseWarning, PublishedSource, cache_folder, choose_reference_view
from recon4d.zoo.motion_flow import MotionFlow, load_motion_flow, save_motion_flow
from recon4d.zoo.pretrained import load_pretrained
from recon4d.zoo.registry import (
    DEFAULT_MODEL,
    RECOMMENDED,
    HeadKind,
    UntrainedWarning,
    ZooEntry,
    create_model,
    find_model,
    head_kind,
    list_models,
    load_model,
    model_config,
    model_entry,
)
from recon4d.zoo.side_networks import add_side_network, has_side_network, start_from
from recon4d.zoo.vggt.vggt import from_vggt
from recon4d.zoo.vggt.vggt_omega import from_vggt_omega

__all__ = [
    "DEFAULT_MODEL",
    "RECOMMENDED",
    "HeadKind",
    "LicenseWarning",
    "MotionFlow",
    "PublishedSource",
    "Storage",
    "UntrainedWarning",
    "ZooEntry",
    "add_side_network",
    "cache_folder",
    "choose_reference_view",
    "create_model",
    "empty_model",
    "find_model",
    "from_da3",
    "from_vggt",
    "from_vggt_omega",
    "has_side_network",
    "head_kind",
    "list_models",
    "load_model",
    "load_motion_flow",
    "load_pretrained",
    "model_config",
    "model_entry",
    "save_model",
    "save_motion_flow",
    "start_from",
]
