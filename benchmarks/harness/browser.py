"""A headless browser for tests and screenshots of the gateway's page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

COMMAND = "chromium"
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, headless, with a fake camera that delivers a test image.

    Raises:
        RuntimeError: Chromium is not installed.
    """
    path = shutil.which(COMMAND)
    if path is None:
        raise RuntimeError(
            f"expected the program {COMMAND} in PATH, got none; install it, for example with "
            "`apt-get install chromium`"
        )
    with sync_playwright() as playwright:
        # The system's program, as Playwright's browser would have to be downloaded.
        browser = playwright.chromium.launch(executable_path=path, args=FAKE_CAMERA)
        try:
            yield browser
        finally:
            browser.close()
