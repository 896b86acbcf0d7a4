"""The web app: a page on which people drop a clip, watch its reconstruction, look at the scene and download it."""

from recon4d.app.controller import Controller
from recon4d.app.gradio_loader import NoGradioError, load_gradio
from recon4d.app.options import JobOptions, Limits
from recon4d.app.reconstruction import AppResult, reconstruct_folder
from recon4d.app.serving import DEFAULT_PORT, AppConfig, serve_until_interrupted, served_app
from recon4d.app.worker import Worker

__all__ = [
    "DEFAULT_PORT",
    "AppConfig",
    "AppResult",
    "Controller",
    "JobOptions",
    "Limits",
    "NoGradioError",
    "Worker",
    "load_gradio",
    "reconstruct_folder",
    "serve_until_interrupted",
    "served_app",
]
