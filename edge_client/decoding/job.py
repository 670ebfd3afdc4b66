"""One image to decode: what the decoding process is told, what it does, and what it says.

Both directions use a stream socket. A message is the length of a JSON object in 4 bytes, the
object, and as many further bytes as it names in `length`. Nothing is unpickled: what a damaged
decoder writes is data.
"""

from __future__ import annotations

import binascii
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aligned_vq.errors import InvalidInput
from aligned_vq.images.formats import DECODE_SECONDS
from aligned_vq.images.load import MAX_ENCODED_BYTES, MAX_PIXELS, load_image
from aligned_vq.images.preprocess import View, view_of
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.images.reduced_decoding import BYTES_PER_PIXEL, Header

SPARE_BYTES = 12 * 2**20
"""Of memory beyond that, and all of it until the size is known."""
LARGE_PIXELS = 2 * 2**20
"""Larger images are decoded one at a time."""
ASK, GRANT = b"\xff\xff\xff\xff", b"!"
"""A process asks before it decodes a large image, and is granted it. No message is as long as the
question would say."""
_HEAD = struct.Struct(">I")

Coding = Literal["base64", "raw"]


@dataclass(frozen=True)
class Limits:
    """What one image may cost.

    Args:
        formats: that may be opened.
        max_pixels: of the whole image.
        max_bytes: of the encoded file.
        memory_bytes: of decoding it, beside the file.
        seconds: of decoding, by the clock.
    """

    formats: tuple[str, ...]
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_ENCODED_BYTES
    memory_bytes: int = MAX_PIXELS * BYTES_PER_PIXEL
    seconds: float = DECODE_SECONDS


@dataclass(frozen=True)
class DecodedView:
    """What the model sees of an image, and what the file was."""

    view: View
    width: int
    height: int
    file_bytes: int


def message(fields: dict[str, Any], length: int = 0) -> bytes:
    """The head of a message; `length` bytes follow it."""
    body = json.dumps({**fields, "length": length}).encode()
    return _HEAD.pack(len(body)) + body


def head_bytes(prefix: bytes | bytearray) -> int:
    """How long the JSON object after these 4 bytes is."""
    length: int = _HEAD.unpack(prefix)[0]
    return length


def job_fields(name: str, coding: Coding, limits: Limits, settings: ProcessorSettings) -> Any:
    """A job without its bytes."""
    return {
        "name": name,
        "coding": coding,
        "max_pixels": limits.max_pixels,
        "max_bytes": limits.max_bytes,
        "memory_bytes": limits.memory_bytes,
        "formats": limits.formats,
        "settings": settings.to_dict(),
    }


def read_message(connection: socket.socket) -> tuple[dict[str, Any], bytearray]:
    """The next message, by blocking reads; EOFError where the other side left."""
    fields = json.loads(_read(connection, head_bytes(_read(connection, _HEAD.size))))
    return fields, _read(connection, fields["length"])


def _read(connection: socket.socket, length: int) -> bytearray:
    read = bytearray(length)
    rest = memoryview(read)
    while rest:
        count = connection.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return read


def encoded_file(fields: dict[str, Any], data: bytearray) -> bytearray | bytes:
    """The file that a job's bytes are.

    Raises:
        NotBase64: they should be base64, and are not.
    """
    if fields["coding"] == "raw":
        return data
    if b"\\" in data:  # JSON may write / as \/, and some encoders do
        data = data.replace(b"\\/", b"/")
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        raise NotBase64(
            "expected base64 in the image's data URI, got something else; encode the file again"
        ) from None


def decode(
    fields: dict[str, Any], data: bytearray | bytes, admit: Callable[[int, int], None]
) -> DecodedView:
    """Do a job, in whatever process this is.

    Args:
        fields: `job_fields`.
        data: the encoded file.
        admit: called with the number of pixels that are decoded and the bytes of memory that this
            may take, before it is done.

    Raises:
        InvalidInput: the image cannot be used.
        TooCostly: decoding it takes more memory than it may.
    """
    headers: list[Header] = []

    def checked(header: Header) -> None:
        most = fields["memory_bytes"]
        if header.memory_bytes > most:
            raise TooCostly(
                f"expected an image that is decoded in {most >> 20} MiB, {fields['name']} "
                f"({header.form}, {header.width} x {header.height}) takes "
                f"{-(-header.memory_bytes >> 20)} MiB: send a smaller image, or a baseline JPEG"
            )
        headers.append(header)
        admit(header.decoded_pixels, header.memory_bytes + SPARE_BYTES)

    image = load_image(
        data,
        max_pixels=fields["max_pixels"],
        max_bytes=fields["max_bytes"],
        formats=fields["formats"],
        admit=checked,
        name=fields["name"],
    )
    view = view_of(image, ProcessorSettings.from_dict(fields["settings"]))
    header = headers[-1]
    # The file's size, as the image stands upright: it may be reduced.
    turned = (image.width < image.height) != (header.width < header.height)
    size = (header.height, header.width) if turned else (header.width, header.height)
    return DecodedView(view, *size, len(data))


def answer(decoded: DecodedView) -> tuple[bytes, memoryview]:
    """The message that brings it back: its head and its pixels."""
    pixels = np.ascontiguousarray(decoded.view.pixels)
    fields = {
        "width": decoded.width,
        "height": decoded.height,
        "file_bytes": decoded.file_bytes,
        "shape": pixels.shape,
    }
    return message(fields, pixels.nbytes), pixels.data.cast("B")


def decoded_of(fields: dict[str, Any], pixels: bytearray) -> DecodedView:
    """What `answer` sent."""
    view = View(np.frombuffer(pixels, np.uint8).reshape(fields["shape"]))
    return DecodedView(view, fields["width"], fields["height"], fields["file_bytes"])


class NotBase64(InvalidInput):
    """A data URI's text is no base64."""


class TooCostly(InvalidInput):
    """An image takes more time or memory than it may, or ended its decoder."""
