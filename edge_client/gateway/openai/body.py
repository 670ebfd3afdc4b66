"""A request's body, within its limits while it is read."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edge_client.gateway.openai.refusal import Refusal

MAX_MARKS = 20_000
"""Of JSON's own characters in a request; a conversation as long as the cloud takes has fewer."""


MAX_WORDS = 300
"""Characters of what the parser says: it may quote the request."""

_Model = TypeVar("_Model", bound=BaseModel)


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytearray:
    """The JSON of a request.

    Raises:
        Refusal: it is something else, too large, or does not come in time.
        ClientDisconnect: nobody waits for an answer any more.
    """
    kind, *parameters = request.headers.get("content-type", "").lower().split(";")
    charsets = [own.strip() for own in parameters if own.strip().startswith("charset")]
    if kind.strip() != "application/json" or charsets not in ([], ["charset=utf-8"]):
        # A page of another site cannot send this type here without asking first, and is told no.
        raise Refusal(
            415,
            "expected Content-Type: application/json in UTF-8, got another or none; send JSON",
            code="unsupported_media_type",
        )
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(
            415,
            "expected a body as it is, got an encoded one; send it without Content-Encoding",
            code="unsupported_media_type",
        )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    # Of its whole size at once: growing would copy it. Pages are only taken as it comes.
    body = bytearray(int(announced[:20]) if announced.isdecimal() else 0)
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
            f"expected a whole request within {seconds:g} s, got a part of it; check the link",
            code="timeout",
        ) from None
    return body


def announced_bytes(request: Request, max_bytes: int) -> int:
    """How long the body will be, as far as is known."""
    announced = request.headers.get("content-length", "")
    return min(int(announced[:20]), max_bytes) if announced.isdecimal() else max_bytes


def parse(model: type[_Model], body: bytes) -> _Model:
    """The body as a model. The parser allows no deep nesting.

    Raises:
        Refusal: naming the first field that is wrong.
    """
    # Millions of values would keep everybody else waiting.
    if sum(map(body.count, (b",", b"{", b"["))) > MAX_MARKS:
        raise Refusal(
            400,
            f"expected a request of at most {MAX_MARKS} values and commas, got more; send less",
            code="request_too_complex",
        )
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise Refusal(
            400, f"expected JSON, got none: {first['msg']}; mend the request", None, "invalid_json"
        )
    param = _param(first)
    raise Refusal(
        400,
        f"expected what the OpenAI API describes, got something else in {param or 'the request'}: "
        f"{first['msg']:.{MAX_WORDS}}; mend it",
        param,
        "missing_required_parameter" if first["type"] == "missing" else "invalid_value",
    )


def _param(error: ErrorDetails) -> str | None:
    """Where it is wrong, as `messages[0].content[1].image_url.url`."""
    text = ""
    place = list(error["loc"])
    if place[:1] == ["messages"] and len(place) > 4:
        del place[4]  # which of a part's types it was taken for
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".") or None


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(
        413,
        f"expected a request of at most {max_bytes} bytes, got a larger one; send a smaller image",
        code="request_too_large",
    )
