"""recon4d: a moving 3D world from a video in one forward pass of a transformer.

>>> import recon4d
>>> clip = recon4d.read_clip("examples/dog.mp4", num_frames=8)
>>> model = recon4d.create_model("recon4d_mini")
>>> scene = recon4d.reconstruct(model, clip)
>>> scene.cameras.world_from_cam.shape
torch.Size([8, 4, 4])

Names are imported when they are first used, so that the command line answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME_OF = {
    "Cameras": "recon4d.records",
    "Clip": "recon4d.records",
    "FeatureTracks": "recon4d.records",
    "Priors": "recon4d.records",
    "Model": "recon4d.models",
    "ModelConfig": "recon4d.models",
    "ReconstructConfig": "recon4d.inference",
    "Scene": "recon4d.records",
    "ClipSource": "recon4d.records",
    "Tracks": "recon4d.records",
    "create_model": "recon4d.zoo",
    "in_meters": "recon4d.records",
    "in_meters_by_distance": "recon4d.records",
    "leveled": "recon4d.records",
    "list_models": "recon4d.zoo",
    "load_model": "recon4d.zoo",
    "load_scene": "recon4d.io",
    "load_scene_info": "recon4d.io",
    "model_config": "recon4d.zoo",
    "read_clip": "recon4d.io",
    "reconstruct": "recon4d.inference",
    "reconstruct_and_match": "recon4d.inference",
    "refine_clip": "recon4d.refine",
    "save_model": "recon4d.zoo",
    "save_scene": "recon4d.io",
    "scaled": "recon4d.records",
}

if TYPE_CHECKING:
    from recon4d.inference import ReconstructConfig, reconstruct, reconstruct_and_match
    from recon4d.io import load_scene, load_scene_info, read_clip, save_scene
    from recon4d.models import Model, ModelConfig
    from recon4d.records import (
        Cameras,
        Clip,
        ClipSource,
        FeatureTracks,
        Priors,
        Scene,
        Tracks,
        in_meters,
        in_meters_by_distance,
        leveled,
        scaled,
    )
    from recon4d.refine import refine_clip
    from recon4d.zoo import create_model, list_models, load_model, model_config, save_model


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'recon4d' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
