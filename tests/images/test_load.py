from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

from aligned_vq.errors import InvalidInput
from aligned_vq.images.load import MAX_PIXELS, load_image

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))


def assert_same(image: Image.Image, expected: np.ndarray[Any, Any]) -> None:
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_every_kind_of_source_gives_the_same_image(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    data = encoded(image)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), memoryview(data), image, RGB):
        assert_same(load_image(source), RGB)


def test_the_result_is_detached_from_a_pil_source() -> None:
    image = Image.fromarray(RGB)
    loaded = load_image(image)
    image.paste((0, 0, 0), (0, 0, 13, 9))
    assert_same(loaded, RGB)


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PPM", "TIFF", "WEBP"])
def test_formats(kind: str) -> None:
    data = encoded(Image.fromarray(RGB), kind)
    with Image.open(io.BytesIO(data)) as opened:
        assert_same(load_image(data), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "RGBA", "LA", "PA", "HSV"])
def test_modes_convert_as_the_reference(mode: str) -> None:
    image = Image.fromarray(RGB)
    if "A" in mode:
        image.putalpha(Image.fromarray(RGB[..., 0]))
    image = image.convert(mode)
    assert_same(load_image(image), convert_to_rgb(image, return_numpy=True))


def test_premultiplied_modes_are_served_too() -> None:
    for mode, plain in (("RGBa", "RGBA"), ("La", "LA")):
        image = Image.fromarray(RGB).convert(plain)
        assert_same(load_image(image.convert(mode)), np.asarray(load_image(image)))


def test_palette_and_key_transparency_become_white() -> None:
    palette = Image.fromarray(RGB).convert("P")
    for transparency in (0, bytes(range(256))):
        data = encoded(palette, transparency=transparency)
        with Image.open(io.BytesIO(data)) as opened:
            assert_same(load_image(data), convert_to_rgb(opened, return_numpy=True))
    keyed = encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))
    assert_same(load_image(keyed), np.full((2, 2, 3), 255, np.uint8))
    deep = Image.fromarray(np.array([[0, 5, 65_535]], np.uint16))
    assert np.asarray(load_image(encoded(deep, transparency=5)))[0, :, 0].tolist() == [0, 255, 255]


def test_a_loaded_image_loads_again_unchanged() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    once = load_image(encoded(Image.fromarray(RGB), "PNG", exif=exif))
    assert_same(load_image(once), np.asarray(once))
    clear = load_image(encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(255, 255, 255)))
    assert_same(load_image(clear), np.asarray(clear))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(RGB), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
        assert_same(load_image(data), np.asarray(expected))
        opened.seek(0)
        assert load_image(opened).size == ((9, 13) if orientation in (5, 6, 7, 8) else (13, 9))


def test_an_unreadable_exif_block_does_not_spoil_the_image() -> None:
    data = encoded(Image.fromarray(RGB), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x00")
    assert load_image(data).size == (13, 9)


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 32_768, 65_535]], np.uint16)
    levels = [0, 0, 1, 1, 128, 255]
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    for source in (values, values[..., None], image, encoded(image), encoded(image, "TIFF")):
        loaded = np.asarray(load_image(source))
        assert loaded[0].tolist() == [[level] * 3 for level in levels]
    as_i = Image.fromarray(values.astype(np.int32))
    assert np.asarray(load_image(as_i))[0, :, 0].tolist() == levels


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_are_zero_to_one(dtype: type[np.floating[Any]]) -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype)
    assert np.asarray(load_image(values))[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(np.repeat(values[..., None], 3, axis=2)).size == (3, 1)


def test_float_images_are_zero_to_one() -> None:
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert image.mode == "F"
    assert np.asarray(load_image(image))[0, :, 0].tolist() == [0, 128, 255]


def test_array_shapes() -> None:
    gray = RGB[..., 0]
    expected = np.repeat(gray[..., None], 3, axis=2)
    assert_same(load_image(gray), expected)
    assert_same(load_image(gray[..., None]), expected)
    assert_same(load_image(RGB[::-1, ::2]), RGB[::-1, ::2])
    rgba = np.dstack([RGB, gray])
    assert_same(load_image(rgba), convert_to_rgb(Image.fromarray(rgba), return_numpy=True))


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert_same(load_image(data), np.full((4, 4, 3), (255, 0, 0), np.uint8))


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (None, ("expected an image as a path", "NoneType")),
        ([[1, 2]], ("list",)),
        (b"", ("0 bytes", "send a whole file")),
        (b"hello", ("JPEG", "(5 bytes)", "convert it")),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ("is not one",)),
        ("no/such.png", ("no/such.png", "does not exist")),
        ("nul\0byte", ("nul", "check")),
        (os.devnull, ("device", os.devnull)),
        (np.zeros((3, 8, 9), np.uint8), ("[3, 8, 9]", "channels last")),
        (np.zeros((2, 8, 9, 3), np.uint8), ("[2, 8, 9, 3]", "one image at a time")),
        (np.zeros(7, np.uint8), ("[7]",)),
        (np.zeros((8, 9, 2), np.uint8), ("[8, 9, 2]",)),
        (np.zeros((0, 9, 3), np.uint8), ("9 x 0", "at least 1 x 1")),
        (np.zeros((8, 9), np.int64), ("int64", "astype")),
        (np.zeros((8, 9), np.bool_), ("bool",)),
        (np.array([["a"]]), ("<U1",)),
        (np.full((8, 9), np.nan, np.float32), ("NaN", "0 to 1")),
        (np.array([[0.5, np.inf]]), ("0.5 to inf",)),
        (np.full((8, 9, 3), 200.0), ("200 to 200", "divide")),
        (Image.new("RGB", (0, 5)), ("0 x 5",)),
        (Image.new("I", (2, 2), -5), ("-5 to -5", "65535")),
        (Image.new("F", (2, 2), 7.0), ("7 to 7",)),
        (Image.new("RGB", (1, 1)).im, ("ImagingCore",)),
    ],
)
def test_bad_sources_are_refused_with_what_to_do(source: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_image(source)
    for part in ("expected", ": ", *parts):
        assert part in str(caught.value)


def test_directories_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="the directory"):
        load_image(tmp_path)
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(InvalidInput, match=r"notes\.png"):
        load_image(tmp_path / "notes.png")
    with pytest.raises(InvalidInput, match="check path"):
        load_image("x" * 5000)


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_truncated_images(kind: str) -> None:
    big = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(big, kind)
    for size in (len(data) // 2, len(data) // 4, 30):
        with pytest.raises(InvalidInput, match="damaged"):
            load_image(data[:size])


def test_a_damaged_image_never_raises_anything_else() -> None:
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        data = encoded(Image.fromarray(RGB), kind)
        for _ in range(40):
            damaged = bytearray(data)
            for place in RNG.integers(0, len(data), 3):
                damaged[place] = int(RNG.integers(256))
            with contextlib.suppress(InvalidInput):
                assert load_image(bytes(damaged), max_pixels=10_000).mode == "RGB"


def test_a_closed_pil_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(RGB)))
    with Image.open(path) as image:
        pass
    with pytest.raises(InvalidInput, match="the image"):
        load_image(image)


@pytest.mark.parametrize("side", [8200, 11_000, 40_000])
def test_bombs_are_refused_from_the_header(side: int) -> None:
    # 121 megapixels meet Pillow's own warning, 1600 its error.
    with pytest.raises(InvalidInput, match=f"at most {MAX_PIXELS} pixels") as caught:
        load_image(png_header(side, side))
    assert "smaller image" in str(caught.value)


def test_limits_are_the_callers() -> None:
    with pytest.raises(InvalidInput, match="at most 116 pixels, the array is 13 x 9"):
        load_image(RGB, max_pixels=116)
    assert load_image(RGB, max_pixels=117).size == (13, 9)
    data = encoded(Image.fromarray(RGB))
    with pytest.raises(InvalidInput, match=f"at most {len(data) - 1} bytes"):
        load_image(data, max_bytes=len(data) - 1)
    assert load_image(data, max_bytes=len(data)).size == (13, 9)


def test_a_file_over_the_limit_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    with pytest.raises(InvalidInput, match=r"huge\.png has more"):
        load_image(path)
