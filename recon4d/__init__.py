"""recon4d: cameras, depth, point maps and 3D tracks from a video in one forward pass of a transformer.

>>> import recon4d
>>> clip = recon4d.read_clip("examples/dog.mp4", num_frames=8)
>>> model = recon4d.create_model("recon4d_mini")
>>> scene = recon4d.reconstruct(model, clip)
>>> scene.cameras.world_from_cam.shape
torch.Size([8, 4, 4])

The names in `__all__` and the subpackages (`recon4d.io`, `recon4d.eval`, ...) are imported on first use, so that
``import recon4d`` and the help of the command line do not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = [
    "Cameras",
    "Clip",
    "ClipSource",
    "FeatureTracks",
    "LocatedCameras",
    "Model",
    "ModelConfig",
    "Priors",
    "Scene",
    "Tracks",
    "create_model",
    "list_models",
    "load_model",
    "load_scene",
    "load_scene_info",
    "locate",
    "model_config",
    "read_clip",
    "reconstruct",
    "reconstruct_and_match",
    "refine_clip",
    "sample_motions",
    "save_model",
    "save_scene",
]

_MODULE_OF = {
    "Cameras": "recon4d.records",
    "Clip": "recon4d.records",
    "ClipSource": "recon4d.records",
    "FeatureTracks": "recon4d.records",
    "LocatedCameras": "recon4d.records",
    "Model": "recon4d.models",
    "ModelConfig": "recon4d.models",
    "Priors": "recon4d.records",
    "Scene": "recon4d.records",
    "Tracks": "recon4d.records",
    "create_model": "recon4d.zoo",
    "list_models": "recon4d.zoo",
    "load_model": "recon4d.zoo",
    "load_scene": "recon4d.io",
    "load_scene_info": "recon4d.io",
    "locate": "recon4d.inference",
    "model_config": "recon4d.zoo",
    "read_clip": "recon4d.io",
    "reconstruct": "recon4d.inference",
    "reconstruct_and_match": "recon4d.inference",
    "refine_clip": "recon4d.refine",
    "sample_motions": "recon4d.inference",
    "save_model": "recon4d.zoo",
    "save_scene": "recon4d.io",
}
"""The module that each public name is imported from."""

_SUBMODULES = (
    "app",
    "cli",
    "datasets",
    "errors",
    "eval",
    "geometry",
    "heads",
    "inference",
    "io",
    "layers",
    "losses",
    "models",
    "motion",
    "records",
    "refine",
    "runs",
    "train",
    "viewer",
    "zoo",
)
"""Modules of the package that are attributes of it without being imported explicitly."""

if TYPE_CHECKING:
    from recon4d import (
        app,
        cli,
        datasets,
        errors,
        eval,  # noqa: A004
        geometry,
        heads,
        inference,
        io,
        layers,
        losses,
        models,
        motion,
        records,
        refine,
        runs,
        train,
        viewer,
        zoo,
    )
    from recon4d.inference import locate, reconstruct, reconstruct_and_match, sample_motions
    from recon4d.io import load_scene, load_scene_info, read_clip, save_scene
    from recon4d.models import Model, ModelConfig
    from recon4d.records import (
        Cameras,
        Clip,
        ClipSource,
        FeatureTracks,
        LocatedCameras,
        Priors,
        Scene,
        Tracks,
    )
    from recon4d.refine import refine_clip
    from recon4d.zoo import create_model, list_models, load_model, model_config, save_model


def __getattr__(name: str) -> Any:
    """Import a public name or a subpackage on first use (PEP 562)."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"recon4d.{name}")
    raise AttributeError(f"module 'recon4d' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names and subpackages along with the module's own attributes."""
    return sorted({*globals(), *_MODULE_OF, *_SUBMODULES})
