"""Picture of the web app in Chromium without a screen: an example is reconstructed and its result is shown.

recon4d app --port 7860
python examples/app_picture.py --address http://127.0.0.1:7860 --out app.jpg

Needs Chromium and its driver (Debian: chromium, chromium-driver), and selenium from PyPI.
"""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

LOADING_SECONDS = 50.0
"""Time for the page to load and draw the 3D view without a GPU."""
LONGEST_SECONDS = 200.0
"""Longest time of a reconstruction."""


@dataclass(frozen=True)
class Arguments:
    """Reconstruct an example in the app, and take a picture of the page."""

    out: Path
    """Picture to write (.jpg or .png)."""
    address: str = "http://127.0.0.1:7860"
    """Address of the app, which must run."""
    example: str = "Video of a dog"
    """Button of the example to reconstruct."""
    size: tuple[int, int] = (1400, 1180)
    """Width and height of the window in pixels."""
    width: int = 1120
    """Width of the picture in pixels."""


def main(arguments: Arguments) -> None:
    """Open the page, reconstruct the example, and write the picture."""
    from selenium import webdriver  # pyright: ignore[reportMissingImports]

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    width, height = arguments.size
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--enable-unsafe-swiftshader"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={width},{height}")
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"), log_output=os.devnull)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get(arguments.address)
        _wait(driver, "return document.querySelector('#run') !== null")
        time.sleep(LOADING_SECONDS / 10)  # until the buttons do something
        script = (
            "for (const b of document.querySelectorAll('button')) if (b.innerText.trim() === arguments[0]) b.click()"
        )
        driver.execute_script(script, arguments.example)
        _wait(driver, "return !document.querySelector('#run').disabled")
        driver.execute_script("document.querySelector('#run').click()")
        _wait(driver, "return document.querySelector('#status .done') !== null")
        time.sleep(LOADING_SECONDS)
        with tempfile.TemporaryDirectory() as folder:
            driver.save_screenshot(f"{folder}/page.png")
            picture = Image.open(f"{folder}/page.png").convert("RGB")
    finally:
        driver.quit()
    picture.thumbnail((arguments.width, 10 * arguments.width))
    picture.save(arguments.out, quality=85, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e3:.0f} kB")


def _wait(driver: Any, condition: str) -> None:
    """Wait until a script returns true."""
    end = time.monotonic() + LONGEST_SECONDS
    while not driver.execute_script(condition):
        if time.monotonic() > end:
            raise SystemExit(f"nothing happens: {driver.execute_script('return document.body.innerText')}")
        time.sleep(0.5)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
