"""Picture of rerun's viewer without a screen: a recording at one frame, drawn by a GPU or by Vulkan's software driver.

recon4d view out/dog --save dog.rrd --max-points 250000
python examples/viewer_picture.py --recording dog.rrd --frame 3 --out dog.jpg
"""

import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tyro
from PIL import Image

Result = TypeVar("Result")
LOADING_SECONDS = 8.0
"""Time for the viewer to load and draw a recording."""
ATTEMPTS = 10
"""Largest number of attempts to draw: a software driver may need several."""


@dataclass(frozen=True)
class Arguments:
    """Draw a recording of `recon4d view --save`."""

    recording: Path
    """Recording (.rrd)."""
    out: Path
    """Picture to write (.jpg or .png)."""
    frame: int = 0
    """Frame to show, from 0."""
    size: tuple[int, int] = (1440, 810)
    """Width and height in pixels."""
    port: int = 9987
    """Port of the viewer."""


def main(arguments: Arguments) -> None:
    """Start a viewer without a window, show the frame, and write its picture."""
    import rerun_cli  # pyright: ignore[reportMissingImports]

    window = f"{arguments.size[0]}x{arguments.size[1]}"
    options = [
        "--headless",
        "--renderer",
        "vulkan",
        "--hide-welcome-screen",
        "--window-size",
        window,
        "--port",
        str(arguments.port),
    ]
    # The program `rerun` is a script that starts this one, and would leave it running.
    executable = Path(rerun_cli.__file__).with_name("rerun")
    viewer = subprocess.Popen([str(executable), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        screenshot = Path(folder).resolve() / "screenshot.png"
        try:
            take_picture(arguments, screenshot)
        finally:
            viewer.terminate()
            viewer.wait(timeout=60)
        Image.open(screenshot).convert("RGB").save(arguments.out, quality=85, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e3:.0f} kB")


def take_picture(arguments: Arguments, screenshot: Path) -> None:
    """Let the running viewer write its picture (a PNG)."""
    from rerun.experimental import ViewerClient

    client = _retry(lambda: ViewerClient.connect(f"rerun+http://127.0.0.1:{arguments.port}/proxy"))
    _retry(lambda: client.open(str(arguments.recording.resolve())))
    time.sleep(2)
    client.set_time("frame", sequence=arguments.frame, play_state="paused")
    time.sleep(LOADING_SECONDS)
    _retry(lambda: client.save_screenshot(str(screenshot)))


def _retry(ask: Callable[[], Result]) -> Result:
    """Ask the viewer, which may still be starting or drawing."""
    for _ in range(ATTEMPTS - 1):
        try:
            return ask()
        except (ConnectionError, TimeoutError):
            time.sleep(2)
    return ask()


if __name__ == "__main__":
    main(tyro.cli(Arguments))
