"""Reconstruction of long clips in bounded memory: overlapping windows that are aligned and streamed to disk."""

from recon4d.inference.windows.loop_closure import LoopConfig
from recon4d.inference.windows.reconstruction import (
    AnchorConfig,
    WindowConfig,
    reconstruct_anchored,
    reconstruct_windows,
    refine_windows,
)

__all__ = [
    "AnchorConfig",
    "LoopConfig",
    "WindowConfig",
    "reconstruct_anchored",
    "reconstruct_windows",
    "refine_windows",
]
