"""A headless Chromium that looks at the live page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 60.0

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


@contextmanager
def chromium(folder: Path, *, size_px: tuple[int, int] = (1280, 720)) -> Iterator[Any]:
    """A driver of a fresh browser, which keeps its files and downloads in ``folder``."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in _FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.add_argument(f"--window-size={size_px[0]},{size_px[1]}")
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(folder / "downloads")}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = selenium.ChromeService(executable_path=driver)
    browser = selenium.Chrome(options=options, service=service)
    try:
        browser.set_page_load_timeout(PATIENCE_S)
        browser.set_script_timeout(PATIENCE_S)
        # The window's frame takes some of its size; the page gets what was asked for.
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size_px[0], "height": size_px[1], "deviceScaleFactor": 1, "mobile": False},
        )
        yield browser
    finally:
        browser.quit()


def until(browser: Any, condition: Callable[[], Any], what: str) -> Any:
    """Wait until ``condition`` holds and return what it gives."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    try:
        return WebDriverWait(browser, PATIENCE_S, poll_frequency=0.05).until(lambda _: condition())
    except TimeoutException:
        log = "; ".join(str(entry["message"]) for entry in browser.get_log("browser"))
        cover = browser.execute_script("return document.getElementById('cover').innerText")
        raise AssertionError(f"{what}: it did not come (cover: {cover!r}, log: {log})") from None


def element(browser: Any, identity: str) -> Any:
    """The element with that id."""
    return browser.find_element("id", identity)


def set_slider(browser: Any, identity: str, value: float) -> None:
    """Move a slider as a hand does: the value, then the event."""
    browser.execute_script(
        "const it = document.getElementById(arguments[0]); it.value = arguments[1];"
        "it.dispatchEvent(new Event('input', {bubbles: true}));",
        identity,
        str(value),
    )
