"""Models by name, and the checkpoint files they are saved to and loaded from."""

from recon4d.zoo.checkpoint import Storage, empty_model, load_model, save_model
from recon4d.zoo.models import (
    DEFAULT_MODEL,
    HeadKind,
    UntrainedWarning,
    ZooEntry,
    create_model,
    list_models,
    model_config,
    model_entry,
)

__all__ = [
    "DEFAULT_MODEL",
    "HeadKind",
    "Storage",
    "UntrainedWarning",
    "ZooEntry",
    "create_model",
    "empty_model",
    "list_models",
    "load_model",
    "model_config",
    "model_entry",
    "save_model",
]
