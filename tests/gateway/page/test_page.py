"""The page in a browser, with the reference model's real answers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from benchmarks.harness.processes import GatewayProcess
from tests.gateway.asking import call, data_uri
from tests.gateway.page.page_driver import PHONE, SCENE, PageDriver, opened

EXPECTED = {
    item["question"]: item["answer"] for item in json.loads(SCENE.with_suffix(".json").read_text())
}
DESCRIBE = "Describe the picture."
COLOUR = "What colour is the star?"
CORNERS = itertools.count()
DROPPED = """(file) => {
  const data = Uint8Array.from(atob(file.base64), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([data], file.name, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(
    file.how === "drop"
      ? new DragEvent("drop", { ...options, dataTransfer: carried })
      : new ClipboardEvent("paste", { ...options, clipboardData: carried }),
  );
}"""
PIXELS = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return Array.from({ length: data.length / 4 }, (_, at) => [...data.slice(4 * at, 4 * at + 4)]);
}"""


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """The example with another corner pixel: in no cache yet, and with the same answers."""
    image = Image.open(SCENE).convert("RGB")
    image.putpixel((0, 0), (next(CORNERS), 90, 80))
    path = tmp_path / "scene.png"
    image.save(path)
    return path


@pytest.fixture
def page(browser: Browser, reference_gateway: GatewayProcess) -> Iterator[PageDriver]:
    with opened(browser, reference_gateway.url) as driver:
        yield driver


def test_a_question_about_an_image(page: PageDriver, scene: Path) -> None:
    page.wait_until_ready()
    page.choose(scene)
    assert page.number("sent") == 0
    answer, split, request = page.ask(DESCRIBE)
    assert answer == EXPECTED[DESCRIBE]
    assert page.number("sent") == page.number("size-sent") == split["bytes_sent"]
    assert page.number("size-jpeg") == split["image"]["jpeg_bytes"]
    assert page.number("size-file") == scene.stat().st_size
    assert f"{split['payload_bytes']:,} B are the picture" in page["sent-words"].inner_text()
    assert [message["role"] for message in request["messages"]] == ["user"]

    legend = page["time-legend"].locator("li span:nth-child(2)").all_inner_texts()
    stages = [stage["stage"] for stage in (*split["edge"], *split["cloud"])]
    assert legend == [stage for stage in stages if stage != "receive"]
    assert page["time-bar"].locator(".edge").count() == len(split["edge"]) > 0
    assert page["time-bar"].locator(".cloud").count() == len(split["cloud"]) - 1


def test_a_follow_up_question_sends_fewer_bytes(page: PageDriver, scene: Path) -> None:
    page.choose(scene)
    _, first, _ = page.ask(DESCRIBE)
    answer, second, request = page.ask(COLOUR)
    assert answer == EXPECTED[COLOUR]
    assert page.number("sent") == second["bytes_sent"] < first["bytes_sent"]
    assert second["payload_bytes"] == 0
    contents = [message["content"] for message in request["messages"]]
    assert contents[0][0]["text"] == DESCRIBE
    assert contents[1:] == [EXPECTED[DESCRIBE], [{"type": "text", "text": COLOUR}]]
    total = first["bytes_sent"] + second["bytes_sent"]
    expect(page["bytes-total"]).to_have_text(f"This conversation: 2 questions, {total:,} B.")

    page["new-image"].click()
    expect(page.exchanges).to_have_count(0)
    assert page.number("sent") == 0
    page.choose(scene)
    _, _, request = page.ask(COLOUR)
    assert len(request["messages"]) == 1


def test_the_slider_sets_the_size_of_the_payload(page: PageDriver, scene: Path) -> None:
    page.choose(scene)
    points = page["rate-points"].locator("li")
    names = [point.get_attribute("data-quality") for point in points.all()]
    shown = [int(words.split()[0]) for words in points.locator(".number").all_inner_texts()]
    assert shown == sorted(shown)
    assert sorted(names, key=str) == ["fixed", "high", "low", "medium"]
    page["rate"].focus()
    page["rate"].press("Home")
    for name, size in zip(names, shown, strict=True):
        assert page["rate"].get_attribute("aria-valuetext") == f"{name}, {size} B"
        expect(page["map-words"]).to_contain_text(f"{size:,} B for all of it")
        _, split, request = page.ask(COLOUR)
        assert request["quality"] == split["quality"] == name
        assert split["payload_bytes"] == size
        page["rate"].press("ArrowRight")


def test_the_index_map_is_drawn(
    page: PageDriver, reference_gateway: GatewayProcess, scene: Path
) -> None:
    uri = data_uri(scene.read_bytes())
    page.choose(scene)
    colours: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for quality in ("medium", "fixed"):
        if quality == "fixed":
            page["rate"].press("End")
        index_map = call(
            f"{reference_gateway.url}/v1/index_map", {"image": uri, "quality": quality}
        ).json()
        expect(page["map-words"]).to_contain_text(f"{index_map['payload_bytes']} B for all of it")
        drawn = page["maps"].locator("canvas[data-stage]")
        assert drawn.count() == len(index_map["stages"])
        for canvas, stage in zip(drawn.all(), index_map["stages"], strict=True):
            assert canvas.get_attribute("data-stage") == str(stage["stage"])
            entries = [entry for row in stage["indices"] for entry in row]
            for pixel, entry in zip(canvas.evaluate(PIXELS), entries, strict=True):
                assert pixel[3] == (0 if entry is None else 255)
                if entry is not None:
                    colours.setdefault(tuple(entry), set()).add(tuple(pixel))
    assert len(colours) > 100
    assert all(
        len(shades) == 1 for shades in colours.values()
    )  # an entry has the same colour in every stage
    assert len(set.union(*colours.values())) > len(colours) / 2


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_images_can_be_dropped_and_pasted(page: PageDriver, scene: Path, how: str) -> None:
    page.wait_until_ready()
    base64 = data_uri(scene.read_bytes()).partition(",")[2]
    page.tab.evaluate(DROPPED, {"base64": base64, "name": "dropped.png", "how": how})
    expect(page["chosen-words"]).to_have_text("dropped.png")
    expect(page["rate-section"]).to_be_visible()
    assert page.ask(COLOUR)[0] == EXPECTED[COLOUR]


def test_an_image_is_taken_with_the_camera(page: PageDriver) -> None:
    page.wait_until_ready()
    page["use-camera"].click()
    page["shoot"].click()  # waits for the first frame
    expect(page["chosen-words"]).to_have_text("camera.jpg")
    expect(page["rate-section"]).to_be_visible()
    _, split, _ = page.ask(COLOUR)
    assert page.number("size-file") == split["image"]["file_bytes"]
    assert page.tab.evaluate("document.getElementById('viewfinder').srcObject") is None

    page["new-image"].click()
    page["use-camera"].click()
    page["shoot"].wait_for()
    page.tab.keyboard.press("Escape")
    expect(page["camera"]).to_be_hidden()
    expect(page["chooser"]).to_be_visible()


def test_the_page_explains_why_there_is_no_camera(
    browser: Browser, reference_gateway: GatewayProcess
) -> None:
    with opened(browser, reference_gateway.url) as page:
        page.tab.add_init_script(
            "Object.defineProperty(navigator, 'mediaDevices', {value: undefined})"
        )
        page.tab.reload()
        expect(page["camera-note"]).to_contain_text("localhost and over HTTPS")
        expect(page["use-camera"]).to_be_hidden()


def test_the_keyboard_alone_is_enough(page: PageDriver, scene: Path) -> None:
    page.wait_until_ready()
    keyboard = page.tab.keyboard

    def tab_to(*names: str) -> None:
        for name in names:
            keyboard.press("Tab")
            assert page.focused() == name
            style = f"getComputedStyle(document.getElementById('{name}')).outlineStyle"
            assert page.tab.evaluate(style) == "solid"

    tab_to("choose", "use-camera", "question", "ask")
    with page.tab.expect_file_chooser() as chooser:
        keyboard.press("Enter")
        expect(page["question-problem"]).to_have_text("Choose a picture first.")
        assert page.focused() == "choose"
        keyboard.press("Enter")
    chooser.value.set_files(scene)
    expect(page["rate-section"]).to_be_visible()
    assert page.focused() == "question"
    keyboard.press("Enter")
    expect(page["question-problem"]).to_have_text("Type a question first.")
    keyboard.type("What colour")
    keyboard.press("Shift+Enter")
    keyboard.type("is the star?")
    keyboard.press("Enter")
    expect(page.exchanges.locator(".answer")).to_have_text(EXPECTED[COLOUR])
    assert page.exchanges.locator(".question").inner_text() == "What colour\nis the star?"
    assert page.focused() == "question"
    keyboard.press("Shift+Tab")
    keyboard.press("Shift+Tab")
    assert page.focused() == "new-image"
    tab_to("rate", "question")
    keyboard.press("Shift+Tab")
    keyboard.press("Shift+Tab")
    keyboard.press("Enter")
    expect(page["chooser"]).to_be_visible()
    assert page.focused() == "choose"


def test_elements_have_names_for_screen_readers(page: PageDriver, scene: Path) -> None:
    page.choose(scene)
    page.ask(COLOUR)
    for name in ("question", "rate", "key", "file"):
        assert page.tab.evaluate(
            "(name) => { const element = document.getElementById(name);"
            " return element.labels.length > 0 || element.hasAttribute('aria-label'); }",
            name,
        )
    assert page["log"].get_attribute("aria-live") == "polite"
    assert page["log"].get_attribute("aria-busy") is None
    assert "Cloud" in (page["time-bar"].get_attribute("aria-label") or "")
    unnamed = (
        "[...document.querySelectorAll('canvas, img')]"
        ".filter((element) => !element.ariaLabel && !element.alt)"
    )
    assert page.tab.evaluate(f"{unnamed}.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_light_and_dark(
    browser: Browser, reference_gateway: GatewayProcess, scene: Path, tmp_path: Path, scheme: Any
) -> None:
    long = tmp_path / f"{'a_very_long_name' * 8}.png"
    long.write_bytes(scene.read_bytes())
    with opened(browser, reference_gateway.url, PHONE, color_scheme=scheme, has_touch=True) as page:
        page.wait_until_ready()
        assert page.overflow_px() == 0
        page.choose(long)
        page.ask("What colour is the star?" + "x" * 100)
        expect(page["maps"].locator("canvas")).to_have_count(5)
        assert page.overflow_px() == 0
        for selector in ("body", ".question", ".answer", ".note", "#ask", "#state", "#size-jpeg"):
            assert contrast(page, selector) >= 4.5, selector
        dark = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(20, 23, 26)") == (scheme == "dark")


def contrast(page: PageDriver, selector: str) -> float:
    """The contrast ratio of a text and its background, by WCAG 2."""
    texts, ground = page.tab.evaluate(
        """(selector) => {
          const element = document.querySelector(selector);
          let behind = element;
          const clear = "rgba(0, 0, 0, 0)";
          while (getComputedStyle(behind).backgroundColor === clear) behind = behind.parentElement;
          const numbers = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
          const text = getComputedStyle(element).color;
          return [text, getComputedStyle(behind).backgroundColor].map(numbers);
        }""",
        selector,
    )
    light, dark = sorted(map(luminance, (texts, ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    parts = [value / 255 for value in colour]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
