"""Requests to a gateway; what they say is kept, so that no log may say it too."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.conftest import IMAGE_SIDE
from tests.privacy import SECRETS

QUESTION = "What colour is the star in this picture?"
JSON = "application/json"


def image_bytes(seed: int = 3, form: str = "PNG") -> bytes:
    """A file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, form)
    return written.getvalue()


def data_uri(data: bytes, kind: str = "image/png") -> str:
    SECRETS.add_bytes("picture", data[:4000])
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def text(words: str) -> dict[str, Any]:
    SECRETS.add_text("question", words)
    return {"type": "text", "text": words}


def image(seed: int = 3) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(image_bytes(seed))}}


def user(*parts: dict[str, Any]) -> Any:
    return {"role": "user", "content": list(parts)}


def assistant(words: str) -> Any:
    SECRETS.add_text("answer", words)
    return {"role": "assistant", "content": words}


def about(seed: int = 3, words: str = QUESTION) -> list[Any]:
    """A question about a picture."""
    return [user(text(words), image(seed))]


class Reply(NamedTuple):
    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """In the one shape of errors."""
        body = self.json()
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        found: dict[str, Any] = body["error"]
        return found


def call(url: str, data: Any = None, *, method: str | None = None, **headers: str) -> Reply:
    """One request without any client's help; `data` that is no bytes is sent as JSON."""
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        named.setdefault("Content-Type", JSON)
    request = urllib.request.Request(url, body, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Reply(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())
