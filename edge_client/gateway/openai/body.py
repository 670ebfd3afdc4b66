"""Receives and parses request bodies, within limits of size and time."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edge_client.gateway.openai.refusal import Refusal

MAX_JSON_MARKS = 20_000
"""Limit of commas and opening brackets, which bounds the number of values. The longest
conversation that the cloud accepts has fewer."""
MAX_PARSER_MESSAGE_CHARS = 300
"""The parser's message is truncated, as it may quote the request."""

_Model = TypeVar("_Model", bound=BaseModel)


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytearray:
    """The JSON body of a request.

    Args:
        request: whose body is not read yet.
        max_bytes: limit of the body.
        seconds: time limit for receiving it.

    Raises:
        Refusal: the body is not JSON by its headers, is too large, or arrives too slowly.
        ClientDisconnect: the client disconnected.
    """
    content_type, *parameters = request.headers.get("content-type", "").lower().split(";")
    charsets = [value.strip() for value in parameters if value.strip().startswith("charset")]
    if content_type.strip() != "application/json" or charsets not in ([], ["charset=utf-8"]):
        # Also a defence against other web sites: a browser sends this type to another origin only
        # after a preflight request, which this gateway does not grant.
        raise Refusal(
            415,
            "expected Content-Type: application/json in UTF-8, got another or none; send JSON",
            code="unsupported_media_type",
        )
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(
            415,
            "expected an unencoded body, got an encoded one; send it without Content-Encoding",
            code="unsupported_media_type",
        )
    content_length = request.headers.get("content-length", "")
    if content_length.isdecimal() and int(content_length[:20]) > max_bytes:
        raise _too_large(max_bytes)
    # Allocated once, as growing would copy it; the system provides pages only as data arrives.
    body = bytearray(int(content_length[:20]) if content_length.isdecimal() else 0)
    length = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body[length : length + len(chunk)] = chunk
                length += len(chunk)
                if length > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise Refusal(
            408,
            f"expected the whole request within {seconds:g} s, got a part of it; check the link",
            code="timeout",
        ) from None
    return body


def expected_bytes(request: Request, max_bytes: int) -> int:
    """Size of the body by its Content-Length, or else the largest allowed."""
    content_length = request.headers.get("content-length", "")
    return min(int(content_length[:20]), max_bytes) if content_length.isdecimal() else max_bytes


def parse(model: type[_Model], body: bytes) -> _Model:
    """The body as a pydantic model. pydantic's parser limits the depth of nesting.

    Raises:
        Refusal: the body does not fit the model; names the first invalid field.
    """
    # Parsing millions of values would block the event loop, and so all other requests.
    if sum(map(body.count, (b",", b"{", b"["))) > MAX_JSON_MARKS:
        raise Refusal(
            400,
            f"expected a request of at most {MAX_JSON_MARKS} values and commas, got more; send "
            "less",
            code="request_too_complex",
        )
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise Refusal(
            400, f"expected JSON, got none: {first['msg']}; fix the request", None, "invalid_json"
        )
    param = _param(first)
    raise Refusal(
        400,
        f"expected a request as documented, got an invalid value in {param or 'the request'}: "
        f"{first['msg']:.{MAX_PARSER_MESSAGE_CHARS}}; fix it",
        param,
        "missing_required_parameter" if first["type"] == "missing" else "invalid_value",
    )


def _param(error: ErrorDetails) -> str | None:
    """Path of the invalid field, such as `messages[0].content[1].image_url.url`."""
    location = list(error["loc"])
    if location[:1] == ["messages"] and len(location) > 4:
        del location[4]  # pydantic's tag of the union of content parts is no field
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in location)
    return path.lstrip(".") or None


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(
        413,
        f"expected a request of at most {max_bytes} bytes, got a larger one; send a smaller image",
        code="request_too_large",
    )
