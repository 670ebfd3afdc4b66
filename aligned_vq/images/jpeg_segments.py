"""Limits of a JPEG file's scans and metadata, checked before it is decoded.

A scan costs a pass over the whole image, however few bytes it has, and Pillow's time to join
metadata segments grows with the square of their number. Both are therefore counted first.
"""

from __future__ import annotations

import re

from aligned_vq.errors import InvalidInput

MAX_SCANS = 100
"""Encoders write about 10."""
MAX_METADATA_BYTES = 4 * 2**20
"""Of all segments with the same marker, such as Exif, ICC profile or comment."""
MAX_METADATA_SEGMENTS = 1000
"""With the same marker; the longest ICC profile needs 255 of 64 KiB."""

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""A marker with a length field, or the end of the image; not stuffing and restart markers."""
_END, _SCAN = 0xD9, 0xDA
_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE))  # APP0 to APP15, COM


def check_jpeg(data: bytes, name: str) -> None:
    """Check the scans and metadata of a JPEG file.

    Files that are no JPEG or are truncated pass: the decoder rejects them.

    Args:
        data: the encoded file.
        name: of the image, for the message.

    Raises:
        InvalidInput: more than `MAX_SCANS` scans, or too much of one kind of metadata.
    """
    if not data.startswith(b"\xff\xd8"):
        return
    position, scans = 2, 0  # behind the start marker
    sizes: dict[int, int] = {}
    counts: dict[int, int] = {}
    while match := _MARKER.search(data, position):
        start = match.end()
        marker = data[start - 1]
        if marker == _END or start + 2 > len(data):
            return
        length = int.from_bytes(data[start : start + 2])
        if marker in _METADATA:
            sizes[marker] = sizes.get(marker, 0) + length
            counts[marker] = counts.get(marker, 0) + 1
            if sizes[marker] > MAX_METADATA_BYTES or counts[marker] > MAX_METADATA_SEGMENTS:
                raise InvalidInput(
                    f"expected at most {MAX_METADATA_BYTES} bytes of metadata of one kind in at "
                    f"most {MAX_METADATA_SEGMENTS} segments of a JPEG, {name} has more: save it "
                    "without metadata"
                )
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise InvalidInput(
                f"expected at most {MAX_SCANS} scans in a JPEG, {name} has more: save it as a "
                "baseline JPEG"
            )
        # A length counts its two bytes. Behind a scan's header, the search passes over the coded
        # data, where 0xff precedes 0 or a restart marker only.
        position = start + length
