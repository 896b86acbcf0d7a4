"""Looking at a scene: a rerun recording of it, saved, in a window or in the browser."""

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
