"""The page when something fails: no cloud, gateway or key, unusable files, hostile text."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from benchmarks.harness.browser import chromium
from benchmarks.harness.processes import CloudProcess, GatewayProcess, ServerProcess
from edge_client.gateway.config import KEY_VARIABLE
from tests.gateway.asking import QUESTION as LONG_ANSWERED
from tests.gateway.asking import call, image_bytes
from tests.gateway.page.page_driver import PHONE, PageDriver, opened
from tests.privacy import SECRETS

QUESTION = "Is there a purple star above the cross?"
KEY = "a-key-for-the-page-only"
HOSTILE = '<img src=x onerror="window.hit=1">'
LONG = ("--default_answer_tokens=4000", "--max_answer_tokens=4000")
SHORT = ("--default_answer_tokens=12", "--max_answer_tokens=12")
"""Leaves room in the context for another question after the answer."""

GROWN = """(often) => {
  const answer = [...document.querySelectorAll(".answer")].at(-1);
  answer.lengths ??= new Set(); // as shown on the screen while the answer is streamed
  const busy = document.getElementById("log").ariaBusy === "true";
  const stops = document.getElementById("ask").textContent === "Stop";
  if (busy && stops && answer.textContent) answer.lengths.add(answer.textContent.length);
  return answer.lengths.size >= often;
}"""


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    path.write_bytes(image_bytes())
    return path


@pytest.fixture
def page(browser: Browser, gateway: GatewayProcess) -> Iterator[PageDriver]:
    with opened(browser, gateway.url) as driver:
        yield driver


def test_an_error_says_how_to_install_a_missing_chromium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt-get install chromium"), chromium():
        pass


def test_headers_forbid_content_from_other_hosts(gateway: GatewayProcess) -> None:
    for path in ("/", "/page/main.js", "/page/style.css", "/page/icon.svg"):
        reply = call(gateway.url + path)
        assert reply.status == 200
        policy = reply.headers["Content-Security-Policy"].split("; ")
        assert "default-src 'self'" in policy
        assert "img-src 'self' blob: data:" in policy
        assert "unsafe" not in str(policy)
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert call(gateway.url, method="HEAD").body == b""
    for path in ("/page/", "/page/none.js", "/page/../app.py", "/page/%2e%2e/app.py"):
        assert call(gateway.url + path).error["code"] == "unknown_url"


def test_the_browser_refuses_to_set_html_from_text(page: PageDriver) -> None:
    attempt = "try { document.body.innerHTML = 'x'; 'set' } catch (error) { error.name }"
    assert page.tab.evaluate(attempt) == "TypeError"
    assert page.complaints  # the browser reports it, too
    page.complaints.clear()


def test_the_page_recovers_when_the_cloud_restarts(
    browser: Browser, talkative: Path, bundle_directory: Path, image_file: Path
) -> None:
    with CloudProcess(bundle_directory, talkative, *SHORT) as cloud:
        # One short attempt, so that the page soon reports the missing cloud.
        options = ("--connect_seconds=1", "--attempts=1")
        with (
            GatewayProcess(cloud.target, bundle_directory, *options) as gateway,
            opened(browser, gateway.url, PHONE) as page,
        ):
            page.wait_until_ready()
            page.choose(image_file)
            page.ask(QUESTION)
            stop(cloud)
            page.type("And below it, is there one there?")
            expect(page.problem).to_contain_text("The cloud does not answer.")
            expect(page["notice"]).to_contain_text("The cloud is not ready.")
            expect(page["notice"]).to_contain_text("goes on by itself")
            expect(page["state"]).to_have_text("the cloud is not ready")
            expect(page["question"]).to_have_value("And below it, is there one there?")
            assert page.overflow_px() == 0

            port = f"--port={cloud.port}"
            with CloudProcess(bundle_directory, talkative, *SHORT, port):
                page.wait_until_ready()
                expect(page["notice"]).to_be_hidden()
                _, _, request = page.ask("And below it, is there one there?")
                texts = [message["content"] for message in request["messages"]]
                assert len(texts) == 3  # without the question that failed
                assert texts[0][0]["text"] == QUESTION
                expect(page.exchanges).to_have_count(3)


def test_the_page_recovers_when_the_gateway_restarts(
    browser: Browser, talkative: Path, bundle_directory: Path, image_file: Path
) -> None:
    with (
        CloudProcess(bundle_directory, talkative, *SHORT) as cloud,
        GatewayProcess(cloud.target, bundle_directory) as gateway,
        opened(browser, gateway.url) as page,
    ):
        page.choose(image_file)
        page.ask(QUESTION)
        stop(gateway)
        page.type(QUESTION)
        expect(page.problem).to_contain_text("Is edge-client serve still running?")
        expect(page["state"]).to_have_text("the gateway is away")
        expect(page["notice"]).to_contain_text("The gateway does not answer.")
        with GatewayProcess(cloud.target, bundle_directory, f"--port={gateway.port}"):
            page.wait_until_ready()
            expect(page["notice"]).to_be_hidden()
            page.ask(QUESTION)


def test_an_answer_is_streamed_and_can_be_stopped(
    browser: Browser, talkative: Path, bundle_directory: Path, image_file: Path
) -> None:
    with (
        CloudProcess(bundle_directory, talkative, *LONG) as cloud,
        GatewayProcess(cloud.target, bundle_directory) as gateway,
        opened(browser, gateway.url) as page,
    ):
        page.wait_until_ready()
        page.choose(image_file)
        page.type(LONG_ANSWERED)
        page.tab.wait_for_function(GROWN, arg=5)
        page.tab.keyboard.press("Escape")
        expect(page["ask"]).to_have_text("Ask")
        expect(page.exchanges.last).to_contain_text("Stopped.")
        assert page["log"].get_attribute("aria-busy") is None
        SECRETS.add_text("answer", page.exchanges.last.locator(".answer").inner_text())
        expect(page["question"]).to_have_value(LONG_ANSWERED)

        page.type(LONG_ANSWERED)  # now stopped with the button
        page.tab.wait_for_function(GROWN, arg=1)
        page["ask"].dispatch_event("click")
        expect(page.exchanges.last).to_contain_text("Stopped.")
        assert page.problem.count() == 0


def stop(server: ServerProcess) -> None:
    server.process.terminate()
    server.process.wait(30)


def test_hostile_text_is_shown_as_text(
    browser: Browser, talkative: Path, bundle_directory: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "hostile"
    shutil.copytree(talkative, checkpoint)
    written = checkpoint / "tokenizer.json"
    tokenizer = json.loads(written.read_text())
    mark = {"type": "Replace", "pattern": {"String": "a"}, "content": HOSTILE}
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [tokenizer["decoder"], mark]}
    written.write_text(json.dumps(tokenizer))
    image_file = tmp_path / f"{HOSTILE}.png"
    image_file.write_bytes(image_bytes())
    with (
        CloudProcess(bundle_directory, checkpoint) as cloud,
        GatewayProcess(cloud.target, bundle_directory) as gateway,
        opened(browser, gateway.url) as page,
    ):
        page.wait_until_ready()
        page.choose(image_file)
        answer, _, _ = page.ask(f"{HOSTILE}<script>window.hit=2</script>")
        assert HOSTILE in answer
        assert page.exchanges.locator(".question").inner_text().startswith(HOSTILE)
        assert page["chosen-words"].inner_text() == image_file.name
        assert page["conversation"].locator("img, script").count() == 0
        assert page.tab.evaluate("window.hit") is None


def test_files_that_are_not_images_are_refused(page: PageDriver, tmp_path: Path) -> None:
    page.wait_until_ready()
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    page["file"].set_input_files(text)
    expect(page["image-problem"]).to_contain_text("This file is not a picture.")
    expect(page["chooser"]).to_be_visible()
    pretended = tmp_path / "pretended.png"
    pretended.write_text("no picture either")
    page["file"].set_input_files(pretended)
    expect(page["image-problem"]).to_contain_text("This picture cannot be used. Choose another.")


def test_a_format_that_browsers_cannot_show_can_be_asked_about(
    browser: Browser, cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    shown_nowhere = tmp_path / "scan.tiff"
    shown_nowhere.write_bytes(image_bytes(form="TIFF"))
    formats = '--image_formats=["TIFF"]'
    with (
        GatewayProcess(cloud.target, bundle_directory, formats) as gateway,
        opened(browser, gateway.url) as page,
    ):
        page.wait_until_ready()
        page.choose(shown_nowhere)
        expect(page["image-problem"]).to_be_hidden()
        expect(page["preview"]).to_be_hidden()
        page.ask(QUESTION)


def test_an_image_that_is_too_large_is_not_sent(
    browser: Browser, cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.bmp"
    large.write_bytes(image_bytes(form="BMP") + os.urandom(2**20))
    with (
        GatewayProcess(cloud.target, bundle_directory, "--max_body_mib=1") as gateway,
        opened(browser, gateway.url) as page,
    ):
        page.wait_until_ready()
        sent: list[Any] = []
        page.tab.on("request", lambda request: sent.append(request.method))
        page["file"].set_input_files(large)
        expect(page["image-problem"]).to_contain_text("1.1 MB, and the gateway takes 0.7 MB.")
        assert "POST" not in sent


def test_the_page_asks_for_the_key_of_a_gateway(
    browser: Browser,
    cloud: CloudProcess,
    bundle_directory: Path,
    image_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    SECRETS.add_text("key", KEY)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with (
        GatewayProcess(cloud.target, bundle_directory) as gateway,
        opened(browser, gateway.url) as page,
    ):
        expect(page["key-dialog"]).to_contain_text("Whoever runs it has set one.")
        expect(page["key"]).to_be_focused()
        page.tab.keyboard.press("Escape")
        expect(page["notice"]).to_contain_text("This gateway wants a key.")
        page["give-key"].click()
        page["key"].fill("another")
        page["key"].press("Enter")
        expect(page["key-dialog"]).to_contain_text("The key that was given is not right.")
        page["key"].fill(KEY)
        page["key"].press("Enter")
        expect(page["key-dialog"]).to_be_hidden()
        expect(page["notice"]).to_be_hidden()
        page.choose(image_file)
        page.ask(QUESTION)
        page.tab.reload()
        page.choose(image_file)
        expect(page["key-dialog"]).to_be_hidden()
        assert page.tab.evaluate("Object.values(sessionStorage)") == [KEY]
        assert page.tab.evaluate("localStorage.length + document.cookie.length") == 0
