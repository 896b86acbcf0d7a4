"""The app in a real browser: upload, run, look, download; a bad file; two people at once; nothing but this machine."""

import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from socket import socket
from typing import Any

import pytest
import torch
from browser import Page, browser, missing_for_browser_tests

from recon4d.app import AppConfig, Limits, served_app
from recon4d.io import write_jpeg

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(bool(missing_for_browser_tests()), reason=missing_for_browser_tests()),
    # Servers and browsers of third parties leave sockets and loops to the garbage collector.
    pytest.mark.filterwarnings("ignore"),
]
DOG = Path(__file__).parents[2] / "examples" / "dog.mp4"
QUICK = "Quick: a first impression"


def free_port() -> int:
    with socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served_app(AppConfig(port=free_port(), limits=Limits(upload_megabytes=2, frames=6))) as address:
        yield address


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads: Path) -> Iterator[Any]:
    with browser(downloads) as driver:
        yield driver


def start(page: Page, num_frames: int) -> None:
    page.set_slider("#frames", num_frames)
    page.choose("#quality", QUICK)
    page.click("#run")


def wait_until_done(page: Page) -> None:
    page.wait(lambda: page.text("#status").startswith("Done") and page.find("#results"))


def view_url(page: Page) -> str:
    """Address of the 3D view that the page offers for download."""
    script = "return document.querySelector('#model3d a[href*=\"glb\"]')?.href ?? ''"
    return str(page.driver.execute_script(script))


def test_a_clip_is_uploaded_reconstructed_looked_at_and_downloaded(driver: Any, address: str, downloads: Path):
    page = Page(driver, address)
    assert not page.find("#results")
    page.upload([DOG])
    page.wait(lambda: page.text("#chosen") == "dog.mp4: 3.0 s, 640 x 360 pixels")
    page.wait(lambda: len(page.find("#preview img")) == 6)
    start(page, 2)
    wait_until_done(page)
    assert "2 frames of 640 x 360 pixels" in page.text("#status")
    assert "Shown: 0.00 s (frame 1 of 2)" in page.wait(lambda: page.text("#caption"))
    assert "the camera" in page.text("#distrust")
    page.wait(lambda: page.find("#model3d canvas"))
    page.wait(lambda: page.find("#video video"))
    page.wait(lambda: page.find("#cameras img"))

    first = page.wait(lambda: view_url(page))
    assert "moment_000.glb" in first
    page.set_slider("#time", 1)
    page.wait(lambda: "Shown: 2.97 s (frame 2 of 2)" in page.text("#caption"))
    page.wait(lambda: "moment_001.glb" in view_url(page))
    page.choose("#kind", "Whole scene, and what moves")
    page.wait(lambda: "scene_001.glb" in view_url(page))

    page.choose("#formats", "Camera path (TUM)")
    page.click("#prepare")
    page.wait(lambda: len(page.find("#prepared a")) == 2)
    names = ["recon4d_results.zip", "recon4d_tum.zip"]
    for link, name in zip(page.find("#prepared a"), names, strict=True):
        driver.execute_script("arguments[0].click()", link)
        page.wait(lambda name=name: (downloads / name).is_file())
    assert "scene.npz" in zipfile.ZipFile(downloads / "recon4d_results.zip").namelist()
    assert page.requested_hosts() == {"127.0.0.1"}


def test_bad_files_are_one_line_and_the_next_clip_works(driver: Any, address: str, tmp_path: Path):
    page = Page(driver, address)
    (tmp_path / "notes.mp4").write_text("no video")
    page.upload([tmp_path / "notes.mp4"])
    page.wait(lambda: "notes.mp4 is not a video" in page.text("#chosen").lower())
    assert not page.find("#run")[0].is_enabled()
    page.click(".example")
    page.wait(lambda: page.text("#chosen").startswith("dog.mp4"))
    page.wait(page.find("#run")[0].is_enabled)

    large = Page(driver, address)
    (tmp_path / "large.mp4").write_bytes(bytes(3_000_000))
    large.upload([tmp_path / "large.mp4"])
    large.wait(lambda: "exceed" in large.text("body").lower() or "at most" in large.text("body").lower())
    assert not large.find("#run")[0].is_enabled()


def test_two_people_wait_for_each_other_cancel_and_leave(driver: Any, address: str, tmp_path: Path):
    one = Page(driver, address)
    first_tab = driver.current_window_handle
    one.upload([DOG])
    one.wait(lambda: one.text("#chosen"))
    one.set_slider("#frames", 5)
    one.click("#run")  # refined: takes long enough for the other to wait
    one.wait(lambda: one.text("#status").startswith(("Starting", "Reading", "Running", "Following", "Fitting")))

    driver.switch_to.new_window("tab")
    two = Page(driver, address)
    pictures = [tmp_path / f"{number}.jpg" for number in range(2)]
    for number, path in enumerate(pictures):
        write_jpeg(path, torch.full((3, 96, 128), 90 * number, dtype=torch.uint8))
    two.upload(pictures)
    two.wait(lambda: two.text("#chosen") == "2 pictures of 128 x 96 pixels")
    start(two, 2)
    two.wait(lambda: "1 other reconstruction first" in two.text("#status"))

    driver.switch_to.window(first_tab)
    started = time.monotonic()
    one.click("#cancel")
    one.wait(lambda: one.text("#status") == "Canceled.")
    assert time.monotonic() - started < 20
    assert not one.find("#results")
    driver.close()  # one leaves; two goes on
    driver.switch_to.window(driver.window_handles[0])
    wait_until_done(two)
    assert "frame 1 of 2" in two.text("#caption")
