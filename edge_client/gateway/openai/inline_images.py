"""Images in a request's JSON are taken out of it before it is parsed, without being copied.

Parsing 32 MiB holds up everybody else; finding where an image's text begins and ends does not. The
text goes on to the process that decodes it as it came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from edge_client.gateway.openai.refusal import Refusal

MAX_JSON_BYTES = 2 * 2**20
"""Of a request without its images; a conversation as long as the cloud takes is shorter."""
_LEAST_BYTES = 1024
_BEGIN = b'"data:'
_HEAD = re.compile(rb'"data:(?:[^"\\,]|\\/){0,100};base64,')
"""It ends in the string that it begins in; JSON may write / as \\/."""
_FIELD = re.compile(rb'[{,\s]"(?:image|image_url|url)"\s*:\s*$')
_FIELD_BYTES = 64
_ENDS_BYTES = 64
_MARK = "#"
"""Stands for an image's text; base64 has no such character."""


@dataclass(frozen=True)
class Body:
    """A request's JSON without the text of its images, and those texts."""

    json: bytes = field(repr=False)
    images: tuple[memoryview, ...] = field(repr=False)


def without_images(body: bytearray) -> Body:
    """Take out the base64 text of long images; `encoded_text` finds it again.

    It is the value of a field that the API has for images. No place inside a string looks like one,
    as a string's own quotes are escaped; an image that is written in another way stays where it is.

    Raises:
        Refusal: what is left is too long to be a request.
    """
    whole = memoryview(body)
    pieces: list[memoryview | bytes] = []
    images: list[memoryview] = []
    numbers: dict[tuple[int, bytes, bytes], int] = {}
    taken_to = place = 0
    while (found := body.find(_BEGIN, place)) >= 0:
        place = found + len(_BEGIN)
        head = _HEAD.match(body, found)
        if not head or not _FIELD.search(body[max(0, found - _FIELD_BYTES) : found]):
            continue
        start = head.end()
        end = body.find(b'"', start)
        if end < start + _LEAST_BYTES or body[end - 1] == ord("\\"):
            continue
        number = _number(images, numbers, whole[start:end])
        pieces += [whole[taken_to:start], f"{_MARK}{number}".encode()]
        taken_to = place = end
    rest = len(body) - taken_to + sum(map(len, pieces))
    if rest > MAX_JSON_BYTES:
        raise Refusal(
            400,
            f"expected a request of at most {MAX_JSON_BYTES} bytes beside its images, got more; "
            "send less",
            code="request_too_complex",
        )
    return Body(b"".join([*pieces, whole[taken_to:]]), tuple(images))


def _number(
    images: list[memoryview], numbers: dict[tuple[int, bytes, bytes], int], text: memoryview
) -> int:
    """Of an image among those found: a conversation names its one image as often as it likes.

    It is compared with the first that begins, ends and is as long as it, so that many that are
    nearly alike cost no more than to read each of them once.
    """
    alike = len(text), bytes(text[:_ENDS_BYTES]), bytes(text[-_ENDS_BYTES:])
    number = numbers.setdefault(alike, len(images))
    if number < len(images) and bytes(images[number]) == bytes(text):
        return number
    images.append(text)
    return len(images) - 1


def encoded_text(url: str, param: str, images: tuple[memoryview, ...]) -> bytes | memoryview:
    """The base64 text of a data URI that `without_images` left; `param` says where it was.

    Raises:
        Refusal: it is an address, which is never fetched, or no image in base64.
    """
    scheme, _, rest = url.partition(":")
    head, comma, encoded = rest.partition(",")
    kind, *options = head.lower().split(";")
    if scheme.lower() != "data" or not comma or not kind.startswith("image/"):
        got = "an address, and nothing is fetched here" if "://" in url[:16] else "something else"
        raise Refusal(
            400,
            f"expected an image as data:image/...;base64,..., got {got}; send the file itself",
            param,
            "invalid_image_url",
        )
    number = encoded.removeprefix(_MARK)
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
