"""The page's choice of what the camera measures, in a real browser; no cloud is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from aligned_vq.graph.modality_bundle import write_modality
from aligned_vq.shipped import BUNDLE
from benchmarks.harness.processes import GatewayProcess
from tests.gateway.page.page_driver import SCENE, opened
from tests.modalities import ROOM, changed_prefix, depth_png

NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway whose bundle takes colour and depth."""
    bundle = tmp_path_factory.mktemp("depth") / "bundle"
    write_modality(BUNDLE, changed_prefix(BUNDLE), "depth", ROOM, bundle)
    with GatewayProcess(NOWHERE, bundle) as process:
        yield process


def test_a_depth_map_is_shown_as_the_prefix_of_depth_sees_it(
    browser: Browser, seeing: GatewayProcess, tmp_path: Path
) -> None:
    with opened(browser, seeing.url) as page:
        expect(page["modality-choice"]).to_be_visible()
        expect(page["modality"].locator("option")).to_have_text(["rgb", "depth"])
        page["file"].set_input_files(depth_png(tmp_path / "depth.png"))
        expect(page["image-problem"]).to_contain_text("looks like depth")
        with page.tab.expect_request("**/v1/index_map") as asked:
            page["modality"].select_option("depth")
        assert (asked.value.post_data_json or {})["modality"] == "depth"
        expect(page["image-problem"]).to_be_hidden()
        expect(page["rate-section"]).to_be_visible()
        expect(page["maps"].locator("canvas").first).to_be_visible()
        page["new-image"].click()
        page["file"].set_input_files(SCENE)
        expect(page["image-problem"]).to_contain_text("got uint8")


def test_there_is_no_choice_for_a_bundle_of_colour(browser: Browser) -> None:
    with GatewayProcess(NOWHERE, BUNDLE) as process, opened(browser, process.url) as page:
        page["file"].set_input_files(SCENE)
        expect(page["rate-section"]).to_be_visible()
        expect(page["modality-choice"]).to_be_hidden()
