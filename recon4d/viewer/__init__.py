"""Viewer: a scene as a rerun recording, saved to a file or shown in a window or the browser."""

from recon4d.viewer.recording import View, ViewConfig, record_scene
from recon4d.viewer.rerun_loader import NoRerunError, load_rerun
from recon4d.viewer.serving import DEFAULT_PORT, has_display, open_window, save_view, served

__all__ = [
    "DEFAULT_PORT",
    "NoRerunError",
    "View",
    "ViewConfig",
    "has_display",
    "load_rerun",
    "open_window",
    "record_scene",
    "save_view",
    "served",
]
