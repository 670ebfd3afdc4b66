"""Takes images out of a request's JSON before it is parsed, without copying them.

Parsing 32 MiB would block the event loop; finding where the text of an image begins and ends does
not. The base64 text goes unchanged to the process that decodes the image.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from edge_client.gateway.openai.refusal import Refusal

MAX_JSON_BYTES = 2 * 2**20
"""Limit of a request without its images; the longest conversation that the cloud accepts is
shorter."""
_MIN_TEXT_BYTES = 1024
"""Shorter texts stay in the JSON, as parsing them is cheap."""
_URI_START = b'"data:'
_URI_HEAD = re.compile(rb'"data:(?:[^"\\,]|\\/){0,100};base64,')
"""Cannot match beyond the end of its JSON string; JSON may write / as \\/."""
_FIELD = re.compile(rb'[{,\s]"(?:image|image_url|url)"\s*:\s*$')
_FIELD_BYTES = 64
_SAMPLE_BYTES = 64
_PLACEHOLDER = "#"
"""With a number, replaces the text of an image; base64 does not use this character."""


@dataclass(frozen=True)
class Body:
    """A request's JSON without the text of its images, and those texts."""

    json: bytes = field(repr=False)
    images: tuple[memoryview, ...] = field(repr=False)


def extract_images(body: bytearray) -> Body:
    """Replace the base64 text of long images by placeholders; `encoded_text` resolves them.

    Only values of fields that the API has for images are replaced. Nothing inside a string can look
    like such a field, since quotes are escaped there. Images written in any other way stay.

    Raises:
        Refusal: the remaining JSON is too long.
    """
    view = memoryview(body)
    pieces: list[memoryview | bytes] = []
    images: list[memoryview] = []
    numbers: dict[bytes, int] = {}
    copied_to = search_from = 0
    while (uri_start := body.find(_URI_START, search_from)) >= 0:
        search_from = uri_start + len(_URI_START)
        # `_FIELD` looks back: a data URI counts only as the value of an image field.
        head = _URI_HEAD.match(body, uri_start)
        if not head or not _FIELD.search(body[max(0, uri_start - _FIELD_BYTES) : uri_start]):
            continue
        start = head.end()
        end = body.find(b'"', start)
        # A backslash before the quote escapes it: the string goes on, and is not base64.
        if end < start + _MIN_TEXT_BYTES or body[end - 1] == ord("\\"):
            continue
        number = _number(images, numbers, view[start:end])
        pieces += [view[copied_to:start], f"{_PLACEHOLDER}{number}".encode()]
        copied_to = search_from = end
    json_bytes = len(body) - copied_to + sum(map(len, pieces))
    if json_bytes > MAX_JSON_BYTES:
        raise Refusal(
            400,
            f"expected a request of at most {MAX_JSON_BYTES} bytes without its images, got more; "
            "send less",
            code="request_too_complex",
        )
    return Body(b"".join([*pieces, view[copied_to:]]), tuple(images))


def _number(images: list[memoryview], numbers: dict[bytes, int], text: memoryview) -> int:
    """Index of an image's text in `images`, to which a new one is added.

    A conversation may repeat its image. A text is compared with the first of the same length,
    beginning and end; only where these differ are the others found by their digests, so that many
    similar texts cost linear time.
    """
    head, tail = bytes(text[:_SAMPLE_BYTES]), bytes(text[-_SAMPLE_BYTES:])
    number = numbers.setdefault(b"%d,%b,%b" % (len(text), head, tail), len(images))
    if number < len(images) and bytes(images[number]) != bytes(text):
        number = numbers.setdefault(hashlib.sha256(text).digest(), len(images))
    if number == len(images):
        images.append(text)
    return number


def encoded_text(url: str, param: str, images: tuple[memoryview, ...]) -> bytes | memoryview:
    """The base64 text of a data URI in the JSON of `extract_images`.

    Args:
        url: the data URI.
        param: its position in the request, for errors.
        images: the texts that were taken out of the request.

    Raises:
        Refusal: it is an address, which is never fetched, or no image in base64.
    """
    scheme, _, rest = url.partition(":")
    head, comma, encoded = rest.partition(",")
    media_type, *options = head.lower().split(";")
    if scheme.lower() != "data" or not comma or not media_type.startswith("image/"):
        got = "an address, which is never fetched" if "://" in url[:16] else "something else"
        raise Refusal(
            400,
            f"expected an image as data:image/...;base64,..., got {got}; send the file itself",
            param,
            "invalid_image_url",
        )
    number = encoded.removeprefix(_PLACEHOLDER)
    if options[-1:] == ["base64"]:
        if number == encoded:
            return encoded.encode(errors="replace")
        if number.isdecimal() and len(number) < 9 and int(number) < len(images):
            return images[int(number)]
    raise Refusal(
        400,
        "expected base64 in the image's data URI, got something else; encode the file again",
        param,
        "invalid_base64_image",
    )
