"""Training: batches, objective, optimizers, the training loop, checkpoints and test-time adaptation.

Names are imported on first use, so that the command line, which needs the configurations only, starts quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recon4d.train.adaptation import Adaptation, HeldOutError, adapt
    from recon4d.train.adaptation_config import AdaptConfig, AdaptWeights

_MODULE_OF = {
    "AdaptConfig": "recon4d.train.adaptation_config",
    "AdaptWeights": "recon4d.train.adaptation_config",
    "Adaptation": "recon4d.train.adaptation",
    "HeldOutError": "recon4d.train.adaptation",
    "adapt": "recon4d.train.adaptation",
}

__all__ = ["AdaptConfig", "AdaptWeights", "Adaptation", "HeldOutError", "adapt"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'recon4d.train' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
