"""The gateway's page as a person uses it, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    ViewportSize,
    expect,
)

from tests.privacy import SECRETS

WAIT_MS = 40_000
ROOT = Path(__file__).parents[3]
SCENE = ROOT / "examples" / "scene.png"
HEAR = """
  const fetching = window.fetch;
  window.heard = []; // whole answers, as the gateway told them
  window.fetch = async (path, options) => {
    const response = await fetching(path, options);
    if (path === "v1/chat/completions") {
      response.clone().text().then((words) => window.heard.push(words), () => {});
    }
    return response;
  };
"""
DESKTOP = ViewportSize(width=1200, height=900)
PHONE = ViewportSize(width=320, height=640)

expect.set_options(timeout=WAIT_MS)


class PageDriver:
    """One tab on a gateway's page. `complaints` are what the browser had against it."""

    def __init__(self, tab: Page, url: str) -> None:
        self.tab = tab
        self.complaints: list[str] = []
        self._host = urlsplit(url).netloc
        tab.set_default_timeout(WAIT_MS)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("console", self._heard)
        tab.on("request", self._asked)
        tab.add_init_script(HEAR)
        tab.goto(url)

    def __getitem__(self, name: str) -> Locator:
        """The element of this id."""
        return self.tab.locator(f"#{name}")

    @property
    def exchanges(self) -> Locator:
        """Questions with what came of them."""
        return self["conversation"].locator("li")

    @property
    def problem(self) -> Locator:
        """Why the last question was not answered."""
        return self.exchanges.last.locator(".problem")

    def wait_until_ready(self) -> None:
        expect(self["state"]).to_have_text("ready")

    def choose(self, file: Path) -> None:
        """A picture, until its bytes at every rate are known."""
        self["file"].set_input_files(file)
        expect(self["rate-section"]).to_be_visible()

    def type(self, question: str) -> None:
        SECRETS.add_text("question", question)
        self["question"].fill(question)
        self["question"].press("Enter")

    def ask(self, question: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """The answer as shown, `split` as the gateway told it, and what it was asked with."""
        before = self.tab.evaluate("window.heard.length")
        with self.tab.expect_request("**/v1/chat/completions") as asked:
            self.type(question)
        script = "(before) => window.heard.length > before && window.heard.at(-1)"
        words = str(self.tab.wait_for_function(script, arg=before).json_value())
        expect(self["ask"]).to_have_text("Ask")
        events = [line[6:] for line in words.splitlines() if line]
        assert events.pop() == "[DONE]", words[-500:]
        chunks = [json.loads(event) for event in events]
        told = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        shown = self.exchanges.last.locator(".answer").text_content() or ""
        SECRETS.add_text("answer", told)
        assert shown == (told or "(an empty answer)")
        request: dict[str, Any] = asked.value.post_data_json or {}
        return shown, chunks[-1]["split"], request

    def number(self, name: str) -> int:
        """What an element shows, in bytes."""
        shown = self[name]
        assert shown.inner_text() == f"{int(shown.get_attribute('value') or ''):,} B"
        return int(shown.get_attribute("value") or "")

    def overflow_px(self) -> int:
        """How far the page can be scrolled sideways."""
        script = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
        return int(self.tab.evaluate(script))

    def focused(self) -> str:
        """The id of what has the focus."""
        return str(self.tab.evaluate("document.activeElement.id"))

    def _heard(self, message: ConsoleMessage) -> None:
        # The browser's own remark on a status; that the page deals with it is what is tested.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("blob", "data") and url.netloc != self._host:
            self.complaints.append(f"a request to {request.url}")


@contextmanager
def opened(
    browser: Browser, url: str, viewport: ViewportSize = DESKTOP, **options: Any
) -> Iterator[PageDriver]:
    """The page in a tab of its own, with nothing kept from others. It may not have complained."""
    with browser.new_context(viewport=viewport, **options) as context:
        driver = PageDriver(context.new_page(), url)
        yield driver
        assert driver.complaints == []
