"""Makes `docs/page.png`: the gateway's page after a question about the example image.

Starts a cloud and a gateway with the bundled reference model, and a headless Chromium.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import ViewportSize

from aligned_vq.files.atomic_file import new_file
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.browser import chromium
from benchmarks.harness.processes import CloudProcess, GatewayProcess

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "examples" / "scene.png"
SCREENSHOT = ROOT / "docs" / "page.png"
SIZE = ViewportSize(width=1100, height=900)
QUESTION = "Describe the picture."
COLOURS = 128
"""Size of the palette; a screenshot is mostly flat, and a small file suits the repository."""


def main() -> None:
    """Write the file and print its size."""
    with (
        CloudProcess(BUNDLE, CHECKPOINT) as cloud,
        GatewayProcess(cloud.target, BUNDLE) as gateway,
        chromium() as browser,
    ):
        page = browser.new_page(viewport=SIZE)
        page.goto(gateway.url)
        page.wait_for_selector("#state[data-state=ready]")
        page.set_input_files("#file", IMAGE)
        page.wait_for_selector("#rate:visible")
        page.fill("#question", QUESTION)
        page.press("#question", "Enter")
        page.wait_for_selector("#conversation .note")
        page.evaluate("scrollTo(0, 0)")  # the page scrolls to the field for the next question
        png = page.screenshot(full_page=True)
    with Image.open(io.BytesIO(png)) as screen, new_file(SCREENSHOT) as part:
        screen.convert("RGB").quantize(COLOURS).save(part, optimize=True)
    print(f"{SCREENSHOT}: {SCREENSHOT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
