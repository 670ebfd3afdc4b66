"""Seeded image files that cost their decoder far more than their sender.

Cases that do not test the size limit have 24 million pixels, which the gateway accepts.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 6000, 4000
_COLOUR = (90, 120, 150)

Maker = Callable[[random.Random], bytes]


def hostile_files(seed: int) -> Iterator[tuple[str, bytes]]:
    """The name and the file of every case."""
    for name, make in CASES.items():
        yield name, make(random.Random(f"{seed} {name}"))


def _saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _flat(mode: str, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    colour: Any = {"RGB": _COLOUR, "RGBA": (*_COLOUR, 7), "CMYK": (*_COLOUR, 9)}.get(mode, 1)
    return Image.new(mode, (width, height), colour)


def _jpeg_with(segments: bytes, side: int = 336) -> bytes:
    plain = _saved(_flat("RGB", side, side), "JPEG")
    # Right behind the two bytes that mark the start of an image.
    return plain[:2] + segments + plain[2:]


def _segment(marker: int, data: bytes) -> bytes:
    # The length includes its two bytes, but not the marker.
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def empty_scans(count: int, width: int, height: int) -> Maker:
    """A progressive JPEG whose last scan, which changes nothing, is repeated `count` times."""

    def make(rng: random.Random) -> bytes:
        level = rng.randrange(256)
        plain = _saved(Image.new("L", (width, height), level), "JPEG", progressive=True)
        last = plain.rindex(b"\xff\xda")
        # The last two bytes mark the end of the image.
        return plain[:last] + plain[last:-2] * count + plain[-2:]

    return make


def _exif_loop(rng: random.Random) -> bytes:
    """An IFD that refers to itself as sub-IFD, as GPS IFD and as the next IFD."""
    # Exif, GPS and interoperability IFD, all at offset 8, where this IFD starts.
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005))
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 3) + entries + struct.pack("<I", 8)
    return _jpeg_with(_segment(0xE1, b"Exif\0\0" + tiff))


def _icc(rng: random.Random) -> bytes:
    # Numbered 1 to 255 of 255, but only 96 are sent: the profile stays incomplete.
    pieces = [b"ICC_PROFILE\0" + bytes((n, 255)) + rng.randbytes(65_000) for n in range(1, 256)]
    return _jpeg_with(b"".join(_segment(0xE2, piece) for piece in pieces[:96]))


def _restarts(rng: random.Random) -> bytes:
    return _saved(_flat("L", 4000, 4000), "JPEG", restart_marker_blocks=1)


def _arithmetic(rng: random.Random) -> bytes:
    # Only the marker says that the entropy coding is arithmetic; the data is Huffman-coded.
    return _saved(_flat("RGB", 2000, 2000), "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1)


def _declared_jpeg(rng: random.Random) -> bytes:
    plain = bytearray(_saved(_flat("RGB", 64, 64), "JPEG"))
    place = plain.index(b"\xff\xc0") + 5  # height and width in the start-of-frame segment
    plain[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(plain)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, pixels: bytes, more: bytes = b"", **head: int) -> bytes:
    """A PNG assembled from chunks; `more` precedes the pixels, `head` sets fields of the header."""
    depth, colour, interlace = (head.get(name, 0) for name in ("depth", "colour", "interlace"))
    header = struct.pack(">IIBBBBB", width, height, depth or 8, colour, 0, 0, interlace)
    ihdr = _chunk(b"IHDR", header)
    return b"\x89PNG\r\n\x1a\n" + ihdr + more + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 1)


def _small_png(more: bytes) -> bytes:
    # A byte for the filter precedes the 64 bytes of every row.
    return _png(64, 64, _zeros(64 * 65), more)


def _interlaced(rng: random.Random) -> bytes:
    # Three bytes a pixel, and more filter bytes than the rows of Adam7's passes need.
    return _png(WIDTH, HEIGHT, _zeros(WIDTH * HEIGHT * 3 + 2 * HEIGHT * 7), colour=2, interlace=1)


def _palette(rng: random.Random) -> bytes:
    more = _chunk(b"PLTE", rng.randbytes(768)) + _chunk(b"tRNS", rng.randbytes(256))
    return _png(WIDTH, HEIGHT, _zeros((WIDTH + 1) * HEIGHT), more, colour=3)


def _apng(rng: random.Random) -> bytes:
    # 5,000 frames, repeated for ever.
    frames = [_chunk(b"acTL", struct.pack(">II", 5000, 0))]
    for number in range(5000):
        control = struct.pack(">IIIIIHHBB", number, 64, 64, 0, 0, 1, 100, 0, 0)
        frames += [_chunk(b"fcTL", control), _chunk(b"fdAT", rng.randbytes(8))]
    return _small_png(b"".join(frames))


def _webp_header(rng: random.Random) -> bytes:
    plain = bytearray(_saved(_flat("RGB", 64, 64), "WEBP", lossless=True))
    # The header of lossless WebP: width - 1 and height - 1 in 14 bits each.
    plain[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)
    return bytes(plain)


def _animated(file_format: str, count: int, side: int) -> Maker:
    def make(rng: random.Random) -> bytes:
        frames = [Image.new("RGB", (side, side), (n % 256, n // 256, 0)) for n in range(count)]
        return _saved(frames[0], file_format, save_all=True, append_images=frames[1:])

    return make


def _tiff(width: int, height: int, tags: dict[int, tuple[int, list[int]]], data: bytes) -> bytes:
    """A grey TIFF assembled from its parts, with `data` at byte 8.

    Args:
        width: in pixels.
        height: in pixels.
        tags: by tag number, the field type (3: SHORT, 4: LONG) and the values.
        data: the pixels.
    """
    # Width, height, bits of a sample, 0 as black, samples of a pixel.
    basic = {256: (4, [width]), 257: (4, [height]), 258: (3, [8]), 262: (3, [1]), 277: (3, [1])}
    fields = dict(sorted({**basic, **tags}.items()))
    ifd, long_values = 8 + len(data), b""
    # An IFD is a count, entries of 12 bytes, and the offset of the next IFD.
    after_ifd = ifd + 2 + 12 * len(fields) + 4
    entries = b""
    for tag, (field_type, values) in fields.items():
        packed = struct.pack(f"<{len(values)}{'HI'[field_type - 3]}", *values)
        if len(packed) > 4:  # an entry holds four bytes; longer values go behind the IFD
            offset, long_values = after_ifd + len(long_values), long_values + packed
            packed = struct.pack("<I", offset)
        entries += struct.pack("<HHI", tag, field_type, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", ifd)
    # The IFD names itself as the next one: a reader of all frames would never end.
    directory = struct.pack("<H", len(fields)) + entries + struct.pack("<I", ifd)
    return head + data + directory + long_values


def _tiff_strips(rng: random.Random) -> bytes:
    count = 60_000
    # 60,000 strips of one row, all of them the same 400 bytes of the file.
    tags = {259: (3, [1]), 273: (4, [8] * count), 278: (3, [1]), 279: (4, [400] * count)}
    return _tiff(400, count, tags, rng.randbytes(400))


def _tiff_deflated(rng: random.Random) -> bytes:
    data = _zeros(WIDTH * HEIGHT)
    return _tiff(WIDTH, HEIGHT, {259: (3, [8]), 273: (4, [8]), 279: (4, [len(data)])}, data)


def _bmp_rle(rng: random.Random) -> bytes:
    # Run-length escapes that move the position by nothing, then the end of the image.
    data = b"\0\2\0\0" * 20_000 + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(data), 0, 0, 256, 0)
    # Header of the file, header of the image, 256 colours.
    start = 14 + 40 + 1024
    file = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start)
    return file + head + rng.randbytes(1024) + data


def _j2k(rng: random.Random) -> bytes:
    return _saved(_flat("L", 2048, 2048), "JPEG2000", tile_size=(16, 16))


def _layers(rng: random.Random) -> bytes:
    pixels = np.random.default_rng(rng.randrange(99)).integers(0, 99, (900, 900), np.uint8)
    noise = Image.fromarray(pixels)
    return _saved(noise, "JPEG2000", quality_layers=[*range(200, 1, -1)])


CASES: dict[str, Maker] = {
    "JPEG, 1,000 empty scans": empty_scans(1000, 4000, 3000),
    "JPEG, 5,000 empty scans": empty_scans(5000, 4000, 3000),
    "JPEG, 85 empty scans, 24 megapixels": empty_scans(85, WIDTH, HEIGHT),
    "JPEG, 65,500 x 65,500 declared": _declared_jpeg,
    "JPEG, one colour": lambda rng: _saved(_flat("RGB"), "JPEG"),
    "JPEG, progressive, one colour": lambda rng: _saved(_flat("RGB"), "JPEG", progressive=True),
    "JPEG, progressive, CMYK": lambda rng: _saved(_flat("CMYK"), "JPEG", progressive=True),
    "JPEG, 5,000 Huffman tables": lambda rng: _jpeg_with(
        _segment(0xC4, bytes((0, 1)) + bytes(15) + b"\0") * 5000
    ),
    "JPEG, 5,000 quantization tables": lambda rng: _jpeg_with(
        _segment(0xDB, b"\0" + rng.randbytes(64)) * 5000
    ),
    "JPEG, a restart at every block": _restarts,
    "JPEG, cut short": lambda rng: _saved(_flat("RGB"), "JPEG")[: rng.randrange(9000, 90_000)],
    "JPEG, arithmetic coding": _arithmetic,
    "JPEG, 6 MB of Exif": lambda rng: _jpeg_with(
        _segment(0xE1, b"Exif\0\0" + rng.randbytes(65_000)) * 96
    ),
    "JPEG, 3.9 MB of small Exif segments": lambda rng: _jpeg_with(
        _segment(0xE1, b"Exif\0\0" + rng.randbytes(60)) * 55_000
    ),
    "JPEG, Exif that names itself": _exif_loop,
    "JPEG, 6 MB of ICC profile": _icc,
    "JPEG, 6 MB of comments": lambda rng: _jpeg_with(_segment(0xFE, rng.randbytes(65_000)) * 96),
    "JPEG, 8 MB of fill bytes": lambda rng: _jpeg_with(b"\xff" * 8_000_000),
    "PNG, one colour": lambda rng: _saved(_flat("RGB"), "PNG", compress_level=1),
    "PNG, one colour, RGBA": lambda rng: _saved(_flat("RGBA"), "PNG", compress_level=1),
    "PNG, 16 bits": lambda rng: _png(
        WIDTH, HEIGHT, _zeros((WIDTH * 6 + 1) * HEIGHT), depth=16, colour=2
    ),
    "PNG, 16 bits, gray": lambda rng: _png(
        WIDTH, HEIGHT, _zeros((WIDTH * 2 + 1) * HEIGHT), depth=16
    ),
    "PNG, interlaced": _interlaced,
    "PNG, palette with transparency": _palette,
    "PNG, 1 bit": lambda rng: _saved(Image.new("1", (WIDTH, HEIGHT)), "PNG"),
    "PNG, palette of 3 MB": lambda rng: _small_png(_chunk(b"PLTE", rng.randbytes(3_000_000))),
    "PNG, zTXt of 64 MB": lambda rng: _small_png(_chunk(b"zTXt", b"a\0\0" + _zeros(2**26))),
    "PNG, 60 iTXt of 1 MB": lambda rng: _small_png(
        _chunk(b"iTXt", b"a\0\1\0\0\0" + _zeros(10**6)) * 60
    ),
    "PNG, iCCP of 64 MB": lambda rng: _small_png(_chunk(b"iCCP", b"a\0\0" + _zeros(2**26))),
    "PNG, 200,000 chunks": lambda rng: _small_png(_chunk(b"tEXt", b"a\0b") * 200_000),
    "PNG, 5,000 frames": _apng,
    "PNG, two thousand million pixels a side": lambda rng: _png(2**31 - 1, 2**31 - 1, _zeros(9)),
    "WebP, 16,383 x 16,383 declared": _webp_header,
    "WebP, lossless, one colour": lambda rng: _saved(_flat("RGB"), "WEBP", lossless=True, method=0),
    "WebP, one colour, transparent": lambda rng: _saved(_flat("RGBA"), "WEBP", method=0),
    "WebP, 100 frames": _animated("WEBP", 100, 400),
    "WebP, 6 MB of ICC profile": lambda rng: _saved(
        _flat("RGB", 64, 64), "WEBP", icc_profile=rng.randbytes(6_000_000)
    ),
    "JPEG 2000, 16,384 tiles": _j2k,
    "JPEG 2000, 199 layers": _layers,
    "TIFF, 60,000 strips that are one": _tiff_strips,
    "TIFF, deflated zeros": _tiff_deflated,
    "TIFF, LZW zeros": lambda rng: _saved(_flat("L"), "TIFF", compression="tiff_lzw"),
    "GIF, 400 frames": _animated("GIF", 400, 64),
    "GIF, one colour": lambda rng: _saved(_flat("P"), "GIF"),
    "AVIF, one colour": lambda rng: _saved(_flat("RGB", 4000, 3000), "AVIF", speed=10),
    "BMP, run lengths": _bmp_rle,
    "PPM in words": lambda rng: b"P3 2000 1300 255 " + b"1 " * 7_800_000,
    "random bytes": lambda rng: rng.randbytes(200_000),
}
