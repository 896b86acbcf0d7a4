"""`recon4d app`: the web app, in which a clip is dropped on a page."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class AppCommand:
    """Serve a web app: drop a video or pictures on a page, look at the result and download it (needs gradio)."""

    host: str = "127.0.0.1"
    """Address to listen at. The default can only be reached from this machine; 0.0.0.0 opens the app to the network."""
    port: int = 7860
    """Port of the page."""
    max_upload_megabytes: int = 500
    """Largest size of the files of a clip."""
    max_frames: int = 24
    """Largest number of frames of a clip that are reconstructed."""
    max_seconds: float = 600.0
    """Longest video, in seconds."""

    interrupted: ClassVar[str] = "stopped"

    def run(self) -> None:
        """Serve the app until Ctrl-C.

        Raises:
            UserError: If gradio is not installed, an option is out of range, or the port cannot be used.
        """
        from recon4d.app import AppConfig, Limits, load_gradio, serve_until_interrupted

        load_gradio()
        limits = Limits(self.max_upload_megabytes, self.max_frames, self.max_seconds)
        serve_until_interrupted(AppConfig(self.host, self.port, limits))
