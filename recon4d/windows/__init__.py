"""Clips of any length in bounded memory: windows of any reconstruction put together, streamed to disk."""

from recon4d.windows.loops import LoopConfig
from recon4d.windows.stitching import AnchorConfig, WindowConfig, reconstruct_anchored, reconstruct_windows

__all__ = ["AnchorConfig", "LoopConfig", "WindowConfig", "reconstruct_anchored", "reconstruct_windows"]
