"""Decodes the images of requests, which are data URIs, to views."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image

from aligned_vq.errors import InvalidInput
from aligned_vq.images.preparation import Preparation
from aligned_vq.images.preprocess import View
from aligned_vq.images.reduced_decoding import BYTES_PER_PIXEL, WHOLE_JPEG_PIXELS
from edge_client.decoding.decoders import ImageDecoders
from edge_client.decoding.job import DecodedView, NotBase64, TooCostly
from edge_client.gateway.openai.refusal import Refusal

JPEG_QUALITY = 90
MAX_IMAGE_BYTES = WHOLE_JPEG_PIXELS * BYTES_PER_PIXEL
"""Memory limit for decoding one image: enough for any baseline JPEG, and for 3840 x 2160 pixels of
PNG. A file of 200 kB can need as much."""


async def open_image(
    decoders: ImageDecoders,
    text: bytes | memoryview,
    param: str,
    caller: str,
    preparation: Preparation | None = None,
) -> DecodedView:
    """The decoded image of a data URI.

    Args:
        decoders: decode it.
        text: the URI's base64 text, see `encoded_text`.
        param: its position in the request, for errors.
        caller: who sent the request.
        preparation: for another model than the bundle's.

    Raises:
        Refusal: it is no image that can be used.
        Overloaded: all decoding slots are taken.
    """
    # Decoders know no request: here their errors get a code, and the position of the image.
    try:
        return await decoders.decode(text, coding="base64", caller=caller, preparation=preparation)
    except NotBase64 as error:
        raise Refusal(400, str(error), param, "invalid_base64_image") from None
    except TooCostly as error:
        raise Refusal(400, str(error), param, "image_too_costly") from None
    except InvalidInput as error:
        raise Refusal(400, str(error), param, "invalid_image") from error


# Cached, as each question about an image has the same figure.
@lru_cache(16)
def jpeg_bytes(view: View) -> int:
    """Size of a view as a JPEG of quality 90, for comparison with its payload."""
    buffer = io.BytesIO()
    Image.fromarray(view.pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.tell()
