"""What a JPEG announces is counted before it is decoded."""

from __future__ import annotations

import io
import random
import struct

import pytest
from PIL import Image

from aligned_vq.errors import InvalidInput
from aligned_vq.images.jpeg_segments import MAX_METADATA_BYTES, MAX_METADATA_SEGMENTS, MAX_SCANS
from aligned_vq.images.load import load_image
from benchmarks.attacks.peers.hostile_files import empty_scans


def jpeg(**options: object) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (64, 48)).save(written, "JPEG", **options)
    return written.getvalue()


def with_segments(count: int, size: int) -> bytes:
    """Of comments, each with what looks like a scan in it."""
    segment = b"\xff\xfe" + struct.pack(">H", size + 2) + (b"\xff\xda" * size)[:size]
    plain = jpeg()
    return plain[:2] + segment * count + plain[2:]


def test_usual_files_pass() -> None:
    kinds: tuple[dict[str, object], ...] = (
        {},
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"comment": b"\xff\xda" * 999},
        {"icc_profile": bytes(3_000_000)},
    )
    for options in kinds:
        assert load_image(jpeg(**options)).size == (64, 48)


def test_scans_are_counted() -> None:
    scans = jpeg(progressive=True, quality=75).count(b"\xff\xda")
    assert scans < MAX_SCANS
    with pytest.raises(InvalidInput, match=f"at most {MAX_SCANS} scans"):
        load_image(empty_scans(MAX_SCANS, 64, 48)(random.Random(1)))
    assert load_image(empty_scans(MAX_SCANS // 2, 64, 48)(random.Random(1))).size == (64, 48)


def test_metadata_is_counted() -> None:
    most = MAX_METADATA_BYTES // 60_002
    assert load_image(with_segments(most, 60_000)).size == (64, 48)
    for count, size in ((most + 1, 60_000), (MAX_METADATA_SEGMENTS + 1, 4)):
        with pytest.raises(InvalidInput, match="save it without metadata"):
            load_image(with_segments(count, size))


def test_millions_of_fill_bytes_are_passed_over() -> None:
    plain = jpeg()
    assert load_image(plain[:2] + b"\xff" * 200_000 + plain[2:]).size == (64, 48)
