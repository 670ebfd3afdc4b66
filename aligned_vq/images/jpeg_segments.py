"""What a JPEG file announces before a pixel of it is decoded: metadata and scans.

A scan costs a pass over the whole image however few bytes it has, and Pillow joins metadata in time
that grows with its square; so both are counted first, in one walk over the file's markers.
"""

from __future__ import annotations

import re

from aligned_vq.errors import InvalidInput

MAX_SCANS = 100
"""Encoders write about 10; all that the standard's progressions give a photograph are fewer."""
MAX_METADATA_BYTES = 4 * 2**20
"""Of a kind of segments together: Exif, XMP, ICC profile, comments."""
MAX_METADATA_SEGMENTS = 1000
"""Of a kind; 255 hold the longest ICC profile, 64 KiB each."""

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""One that a length follows, or the end of the image: none of those that stand alone in a scan."""
_END, _SCAN = 0xD9, 0xDA
_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE))


def check_jpeg(data: bytes, name: str) -> None:
    """Nothing for a file that is no JPEG, or ends early: its decoder says so.

    Args:
        data: the encoded file.
        name: of the image, for the message.

    Raises:
        InvalidInput: more than `MAX_SCANS` scans, or too much of one kind of metadata.
    """
    if not data.startswith(b"\xff\xd8"):
        return
    place, scans = 2, 0
    sizes: dict[int, int] = {}
    counts: dict[int, int] = {}
    while found := _MARKER.search(data, place):
        start = found.end()
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
        place = start + length
