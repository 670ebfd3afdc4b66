"""Pictures in requests: data URIs in, what the model sees of them out."""

from __future__ import annotations

import binascii
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from PIL import Image

from aligned_vq.errors import InvalidInput
from edge_client.gateway.refusal import Refusal
from edge_client.images import load_image
from edge_client.preprocess import View

JPEG_QUALITY = 90
MAX_PIXELS = 24 * 2**20
"""A file of 200 kB can hold as many; decoding them takes several times 3 bytes each."""


@dataclass(frozen=True)
class Picture:
    """What the model sees of a picture, and what it was before."""

    view: View = field(repr=False)
    width: int
    height: int
    file_bytes: int


def open_picture(url: str, param: str, view_of: Callable[[Image.Image], View]) -> Picture:
    """The picture of a data URI; `param` says where in the request it was.

    Raises:
        Refusal: it is an address, which is never fetched, or no picture that can be read.
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
    try:
        if options[-1:] != ["base64"]:
            raise ValueError
        data = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:
        raise Refusal(
            400,
            "expected base64 in the image's data URI, got something else; encode the file again",
            param,
            "invalid_base64_image",
        ) from None
    try:
        image = load_image(data, max_pixels=MAX_PIXELS)
        view = view_of(image)
    except InvalidInput as error:
        raise Refusal(400, str(error), param, "invalid_image") from error
    return Picture(view, image.width, image.height, len(data))


@lru_cache(16)
def jpeg_bytes(view: View) -> int:
    """What a view weighs as a JPEG of quality 90."""
    written = io.BytesIO()
    Image.fromarray(view.pixels).save(written, "JPEG", quality=JPEG_QUALITY)
    return written.tell()
