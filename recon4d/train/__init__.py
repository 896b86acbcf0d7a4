"""Training: batches, objective, optimizers, the training loop, checkpoints and test-time adaptation.

Names are imported on first use, so that the command line, which needs the configurations only, starts quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recon4d.train.adaptation import Adaptation, HeldOutError, adapt
    from recon4d.train.adaptation_config import AdaptConfig, AdaptWeights
    from recon4d.train.config import DataConfig, LossWeights, OptimiserConfig, TrainConfig
    from recon4d.train.loop import TrainResult, train

_MODULE_OF = {
    "AdaptConfig": "recon4d.train.adaptation_config",
    "AdaptWeights": "recon4d.train.adaptation_config",
    "Adaptation": "recon4d.train.adaptation",
    "DataConfig": "recon4d.train.config",
    "HeldOutError": "recon4d.train.adaptation",
    "LossWeights": "recon4d.train.config",
    "OptimiserConfig": "recon4d.train.config",
    "TrainConfig": "recon4d.train.config",
    "TrainResult": "recon4d.train.loop",
    "adapt": "recon4d.train.adaptation",
    "train": "recon4d.train.loop",
}

__all__ = [
    "AdaptConfig",
    "AdaptWeights",
    "Adaptation",
    "DataConfig",
    "HeldOutError",
    "LossWeights",
    "OptimiserConfig",
    "TrainConfig",
    "TrainResult",
    "adapt",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'recon4d.train' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
