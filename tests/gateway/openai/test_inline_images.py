"""Images are taken out of a request before it is parsed, and are found again."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from edge_client.gateway.openai.inline_images import MAX_JSON_BYTES, encoded_text, extract_images
from edge_client.gateway.openai.refusal import Refusal

FILE = bytes(range(256)) * 40
TEXT = base64.b64encode(FILE).decode()
URL = f"data:image/png;base64,{TEXT}"


def found(fields: Any, *names: str) -> list[bytes]:
    """The images of these fields after the way there."""
    body = extract_images(bytearray(json.dumps(fields).encode()))
    read = json.loads(body.json)
    return [bytes(encoded_text(read[name], name, body.images)) for name in names]


def middle(letter: str) -> str:
    """A data URI of an image like `URL`'s but for a letter in the middle."""
    return f"{URL[:5_000]}{letter}{URL[5_001:]}"


def test_a_long_image_is_taken_out_and_found_again() -> None:
    body = extract_images(bytearray(json.dumps({"url": URL, "b": "data: nothing"}).encode()))
    assert len(body.json) < 100
    assert json.loads(body.json)["b"] == "data: nothing"
    assert found({"url": URL, "image": URL[:80]}, "url", "image") == [
        TEXT.encode(),
        TEXT[:58].encode(),
    ]


def test_the_same_image_twice_is_one() -> None:
    other = URL.replace("A", "B")
    body = extract_images(
        bytearray(json.dumps({"url": URL, "image": other, "image_url": URL}).encode())
    )
    read = json.loads(body.json)
    assert read["url"] == read["image_url"] != read["image"]
    assert len(body.images) == 2


def test_an_image_repeated_after_one_that_differs_in_the_middle_is_one() -> None:
    fields = {"a": {"url": middle("B")}, "b": {"url": middle("C")}, "c": {"url": middle("C")}}
    body = extract_images(bytearray(json.dumps(fields).encode()))
    read = json.loads(body.json)
    assert read["b"] == read["c"] != read["a"]
    assert len(body.images) == 2


@pytest.mark.parametrize(
    "text", [f'say "{URL}"', f'\\"{URL}', f'{URL}"', f"{URL}\n", URL, f'"image": "{URL}']
)
def test_a_text_about_an_image_stays_what_it_is(text: str) -> None:
    body = extract_images(bytearray(json.dumps({"text": text, "image": URL}).encode()))
    assert json.loads(body.json)["text"] == text
    assert len(body.images) == 1


def test_an_image_does_not_begin_in_one_string_and_end_in_another() -> None:
    fields = {"url": "data:image/png", "text": f"is ;base64,{TEXT}"}
    body = extract_images(bytearray(json.dumps(fields).encode()))
    assert json.loads(body.json) == fields
    assert not body.images


def test_what_else_is_in_a_data_uri() -> None:
    escaped = json.dumps({"url": URL}).replace("/", "\\/").encode()
    body = extract_images(bytearray(escaped))
    assert bytes(body.images[0]) == TEXT.replace("/", "\\/").encode()
    for url in ("data:image/png;base64,#0", "data:image/png;base64,#", "data:image/png,x"):
        with pytest.raises(Refusal, match="expected base64"):
            encoded_text(url, "a", ())
    for url in ("http://host/x.png", "data:text/plain;base64,AAAA", "x"):
        with pytest.raises(Refusal, match="expected an image as data:image"):
            encoded_text(url, "a", ())


@pytest.mark.parametrize("end", ["", URL[:30], f'"data:image/png;base64,{TEXT}'])
def test_what_is_no_json_stays_none(end: str) -> None:
    body = extract_images(bytearray(f'{{"url": "{URL}", "b": {end}'.encode()))
    with pytest.raises(ValueError, match=r"."):
        json.loads(body.json)


def test_a_long_text_is_refused_where_a_long_image_is_not() -> None:
    extract_images(bytearray(f'{{"image": "{URL[:22]}{"A" * MAX_JSON_BYTES}"}}'.encode()))
    with pytest.raises(Refusal, match="without its images"):
        extract_images(bytearray(f'{{"image": "{"A" * MAX_JSON_BYTES}"}}'.encode()))
