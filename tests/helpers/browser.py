"""Chromium without a screen, and the app's page in it."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECONDS = 90.0
"""Longest time to wait for anything on the page, on a busy machine."""


def missing_for_browser_tests() -> str:
    """Say what is missing for tests in a browser; "" if nothing is."""
    import importlib.util

    missing = [name for name in ("gradio", "selenium") if importlib.util.find_spec(name) is None]
    missing += [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {', '.join(missing)}" if missing else ""


@contextmanager
def browser(downloads: Path, size: tuple[int, int] = (1400, 1000)) -> Iterator[Any]:
    """Start Chromium without a screen."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"]
    # Chromium itself asks other servers for updates; the app must not.
    flags += ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--hide-scrollbars"]
    for flag in (*flags, f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # Without the second setting, Chromium asks before the second download of a page.
    several = {"profile.default_content_setting_values.automatic_downloads": 1}
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads), **several})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"), log_output=os.devnull)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The app in one tab of a browser."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        self.hosts: set[str] = set()
        driver.get(address)
        self.wait(lambda: self.find("#run"))

    def find(self, selector: str) -> list[Any]:
        """Find elements that are shown."""
        from selenium.common.exceptions import StaleElementReferenceException

        try:
            return [found for found in self.driver.find_elements("css selector", selector) if found.is_displayed()]
        except StaleElementReferenceException:
            return []

    def wait(self, condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """Wait until a condition holds, and return its value."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"nothing happened; the page says: {self.text('body')[-600:]}"
            time.sleep(0.1)
        return value

    def text(self, selector: str) -> str:
        """Text of the first element, "" if there is none."""
        return str(self.driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def click(self, selector: str) -> None:
        """Click an element once it is enabled, wherever it is on the page."""
        self.wait(lambda: any(found.is_enabled() for found in self.find(selector)))
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def choose(self, group: str, label: str) -> None:
        """Choose an entry of radio buttons or check boxes by its label."""
        script = """for (const label of document.querySelectorAll(arguments[0] + ' label'))
            if (label.innerText.trim() === arguments[1]) { label.querySelector('input').click(); return true; }"""
        assert self.driver.execute_script(script, group, label), f"{group} has no {label}"

    def set_slider(self, selector: str, value: float) -> None:
        """Set the number beside a slider."""
        script = """const input = document.querySelector(arguments[0] + ' input[type=number]');
            Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, arguments[1]);
            for (const kind of ['input', 'change', 'pointerup', 'blur'])
                input.dispatchEvent(new Event(kind, {bubbles: true}));"""
        self.driver.execute_script(script, selector, str(value))

    def upload(self, files: Sequence[Path]) -> None:
        """Choose files, in place of earlier ones."""
        script = """document.querySelector('#files button[aria-label*=lear], #files button[title*=lear]')?.click()"""
        self.driver.execute_script(script)
        inputs = self.wait(lambda: self.driver.find_elements("css selector", "#files input[type=file]"))
        inputs[0].send_keys("\n".join(str(file.resolve()) for file in files))

    def requested_hosts(self) -> set[str]:
        """Return all hosts that the page has asked so far."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                parts = urlsplit(message["params"]["request"]["url"])
                if parts.scheme not in ("data", "blob", "chrome"):
                    self.hosts.add(str(parts.hostname))
        return self.hosts
