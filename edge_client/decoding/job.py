"""A decoding job: the message to the decoding process, the decoding, and the message back.

Both directions use a stream socket. A message is the length of a JSON header in 4 bytes, the
header, and as many bytes of data as its field `length` says. Nothing is unpickled: a compromised
decoder can send data, but no code.
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
from aligned_vq.images.load import MAX_ENCODED_BYTES, MAX_PIXELS, load_image, load_pixels
from aligned_vq.images.preparation import Preparation
from aligned_vq.images.preprocess import View
from aligned_vq.images.reduced_decoding import BYTES_PER_PIXEL, Header

SPARE_BYTES = 12 * 2**20
"""Memory allowed on top of the file and the decoded pixels."""
GREY_BYTES_PER_PIXEL = 24
"""Memory for the arithmetic on depth and infrared images, on top of decoding."""
LARGE_PIXELS = 2 * 2**20
"""Larger images are decoded one at a time."""
REQUEST_LARGE, GRANT_LARGE = b"\xff\xff\xff\xff", b"!"
"""A process requests permission before it decodes a large image. The request stands where a
message has its header length, and is larger than any valid length."""
_LENGTH = struct.Struct(">I")

Coding = Literal["base64", "raw"]


@dataclass(frozen=True)
class Limits:
    """Limits of one image.

    Args:
        formats: formats that may be opened.
        max_pixels: size of the whole image.
        max_bytes: size of the encoded file.
        memory_bytes: memory for decoding, in addition to the file.
        seconds: elapsed time of decoding.
    """

    formats: tuple[str, ...]
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_ENCODED_BYTES
    memory_bytes: int = MAX_PIXELS * BYTES_PER_PIXEL
    seconds: float = DECODE_SECONDS


@dataclass(frozen=True)
class DecodedView:
    """The model's view of an image, and the dimensions (upright) and size of its file."""

    view: View
    width: int
    height: int
    file_bytes: int


def message_head(fields: dict[str, Any], length: int = 0) -> bytes:
    """Length and header of a message that is followed by `length` bytes of data."""
    header = json.dumps({**fields, "length": length}).encode()
    return _LENGTH.pack(len(header)) + header


def header_bytes(prefix: bytes | bytearray) -> int:
    """Length of the header that follows these 4 bytes."""
    length: int = _LENGTH.unpack(prefix)[0]
    return length


def job_fields(name: str, coding: Coding, limits: Limits, preparation: Preparation) -> Any:
    """The header fields of a job."""
    return {
        "name": name,
        "coding": coding,
        "max_pixels": limits.max_pixels,
        "max_bytes": limits.max_bytes,
        "memory_bytes": limits.memory_bytes,
        "formats": limits.formats,
        "preparation": preparation.to_dict(),
    }


def read_message(connection: socket.socket) -> tuple[dict[str, Any], bytearray]:
    """Fields and data of the next message, by blocking reads; EOFError once the peer closed."""
    fields = json.loads(_read(connection, header_bytes(_read(connection, _LENGTH.size))))
    return fields, _read(connection, fields["length"])


def _read(connection: socket.socket, length: int) -> bytearray:
    buffer = bytearray(length)
    rest = memoryview(buffer)
    while rest:
        count = connection.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return buffer


def encoded_file(fields: dict[str, Any], data: bytearray) -> bytearray | bytes:
    """The encoded file in a job's data.

    Raises:
        NotBase64: the data should be base64, and is not.
    """
    if fields["coding"] == "raw":
        return data
    # The text comes from a JSON string without being parsed, see `gateway.openai.inline_images`.
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
    """Decode the image of a job, in this process.

    Args:
        fields: see `job_fields`.
        data: the encoded file.
        admit: called before decoding with the number of pixels and the bytes of memory it needs;
            raises to refuse.

    Raises:
        InvalidInput: the image cannot be used.
        TooCostly: decoding needs more memory than the limit.
    """
    headers: list[Header] = []
    preparation = Preparation.from_dict(fields["preparation"])
    is_rgb = preparation.modality == "rgb"

    def check_memory(header: Header) -> None:
        max_bytes, memory_bytes = fields["memory_bytes"], header.memory_bytes
        if not is_rgb:
            memory_bytes += GREY_BYTES_PER_PIXEL * header.decoded_pixels
        if memory_bytes > max_bytes:
            needed_mib = -(-memory_bytes >> 20)  # rounded up
            raise TooCostly(
                f"expected an image that is decoded in {max_bytes >> 20} MiB, {fields['name']} "
                f"({header.form}, {header.width} x {header.height}) takes {needed_mib} MiB: send a "
                "smaller image, or a baseline JPEG"
            )
        headers.append(header)
        # From now on the process may use this much memory, and not more.
        admit(header.decoded_pixels, memory_bytes + SPARE_BYTES)

    limits: Any = {name: fields[name] for name in ("max_pixels", "max_bytes", "formats", "name")}
    image = (
        load_image(data, admit=check_memory, **limits)
        if is_rgb
        else load_pixels(data, preparation.modality, admit=check_memory, **limits)
    )
    view = preparation.view(image)
    header = headers[-1]
    # The header's dimensions, as a large JPEG is decoded at a reduced size; swapped where EXIF
    # orientation turned the image by 90 degrees.
    turned = (image.width < image.height) != (header.width < header.height)
    size = (header.height, header.width) if turned else (header.width, header.height)
    return DecodedView(view, *size, len(data))


def view_message(decoded: DecodedView) -> tuple[bytes, memoryview]:
    """The message with a decoded view: its head, and its pixels as data."""
    pixels = np.ascontiguousarray(decoded.view.pixels)
    fields = {
        "width": decoded.width,
        "height": decoded.height,
        "file_bytes": decoded.file_bytes,
        "shape": pixels.shape,
    }
    return message_head(fields, pixels.nbytes), pixels.data.cast("B")


def view_from_message(fields: dict[str, Any], pixels: bytearray) -> DecodedView:
    """The decoded view in a message of `view_message`."""
    view = View(np.frombuffer(pixels, np.uint8).reshape(fields["shape"]))
    return DecodedView(view, fields["width"], fields["height"], fields["file_bytes"])


class NotBase64(InvalidInput):
    """The text of a data URI is not base64."""


class TooCostly(InvalidInput):
    """An image exceeds its limits of time or memory, or crashed its decoder."""
