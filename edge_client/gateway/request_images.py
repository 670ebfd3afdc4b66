"""Images in requests: their text in, what the model sees of them out."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image

from aligned_vq.errors import InvalidInput
from aligned_vq.images.preprocess import View
from aligned_vq.images.reduced_decoding import BYTES_PER_PIXEL, WHOLE_JPEG_PIXELS
from edge_client.decoding.decoders import ImageDecoders
from edge_client.decoding.job import DecodedView, NotBase64, TooCostly
from edge_client.gateway.openai.inline_images import encoded_text
from edge_client.gateway.openai.refusal import Refusal

JPEG_QUALITY = 90
MAX_IMAGE_BYTES = WHOLE_JPEG_PIXELS * BYTES_PER_PIXEL
"""Of memory to decode an image in: any JPEG that is not progressive, and 3840 x 2160 pixels of PNG.
A file of 200 kB can take as much."""


async def open_image(
    decoders: ImageDecoders, url: str, param: str, texts: tuple[memoryview, ...], caller: str
) -> DecodedView:
    """The image of a data URI.

    Args:
        decoders: where it is decoded.
        url: as the request has it after `without_images`.
        param: where in the request it was.
        texts: what was taken out of the request.
        caller: whose request it is.

    Raises:
        Refusal: it is an address, which is never fetched, or no image that can be used.
        Overloaded: as many as may be are being decoded.
    """
    text = encoded_text(url, param, texts)
    try:
        return await decoders.decode(text, coding="base64", caller=caller)
    except NotBase64 as error:
        raise Refusal(400, str(error), param, "invalid_base64_image") from None
    except TooCostly as error:
        raise Refusal(400, str(error), param, "image_too_costly") from None
    except InvalidInput as error:
        raise Refusal(400, str(error), param, "invalid_image") from error


@lru_cache(16)
def jpeg_bytes(view: View) -> int:
    """What a view weighs as a JPEG of quality 90."""
    written = io.BytesIO()
    Image.fromarray(view.pixels).save(written, "JPEG", quality=JPEG_QUALITY)
    return written.tell()
