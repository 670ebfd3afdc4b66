"""The panel of labels on the gateway's page, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from benchmarks.harness.browser import chromium
from benchmarks.harness.processes import GatewayProcess
from tests.classifier.bundles import plain
from tests.gateway.page.page_driver import opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def test_labels_are_shown_and_edited(
    browser: Browser, alone: GatewayProcess, tmp_path: Path
) -> None:
    plain((255, 255, 0)).save(tmp_path / "yellow.png")
    with opened(browser, alone.url) as page:
        expect(page["classify-section"]).to_be_visible()
        expect(page["labels"]).to_have_value("red, green, blue")
        page["file"].set_input_files(tmp_path / "yellow.png")
        first = page["classes"].locator("li").first
        expect(page["classes"].locator("li")).to_have_count(3)
        page["labels"].fill("red wall, yellow wall, blue wall")
        expect(first).to_contain_text("yellow wall")
        expect(page["classify-words"]).to_contain_text("nothing was sent")
        page["labels"].fill("red, red")
        expect(page["classify-problem"]).to_contain_text("would share one probability")
        expect(page["classes"].locator("li")).to_have_count(0)
        page["new-image"].click()
        expect(page["classify-problem"]).to_be_hidden()


def test_there_is_no_panel_without_a_classifier(browser: Browser, without: GatewayProcess) -> None:
    with opened(browser, without.url) as page:
        expect(page["notice"]).to_be_visible()  # the cloud is away: the page has asked
        expect(page["classify-section"]).to_be_hidden()
