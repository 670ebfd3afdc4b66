"""Whatever a caller calls an image becomes an RGB `PIL.Image`, or one clear InvalidInput.

Untrusted bytes end here: the formats are a short list of plain raster ones (PostScript, which
Pillow hands to an outside program, is not among them), and what can be told from the header, such
as the size, is checked before a pixel is decoded. Time and memory are bounded by `decoding`.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.errors import InvalidInput
from aligned_vq.images.formats import FORMATS, check_format, readable
from aligned_vq.images.jpeg_segments import check_jpeg
from aligned_vq.images.pillow_errors import PILLOW_ERRORS
from aligned_vq.images.reduced_decoding import Header, prepare

ImageSource = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.generic]
)

MAX_PIXELS = 64 * 2**20
MAX_ENCODED_BYTES = 64 * 2**20
STRIP_PIXELS = 2**19
"""Images above this are converted in strips of as many pixels."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}

_P = ParamSpec("_P")
_T = TypeVar("_T")


def load_image(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_ENCODED_BYTES,
    formats: Sequence[str] = FORMATS,
    admit: Callable[[Header], None] | None = None,
    name: str = "the image",
) -> Image.Image:
    """An RGB image of 8 bits a channel, upright, decoded and detached from its source.

    Args:
        source: A path, an encoded file's bytes (`FORMATS`), a Pillow image, or an array: `[H, W]`,
            `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` of uint8, uint16 (0 to 65535) or float (0 to 1).
        max_pixels: Refuse more than this, before decoding.
        max_bytes: Refuse longer files and byte strings.
        formats: Of files and byte strings, from `FORMATS`.
        admit: Called with what is known of a file or byte string before it is decoded.
        name: Of bytes or a Pillow image, for messages.

    The EXIF orientation is applied and then gone, so loading the result again changes nothing. A
    JPEG file of more than `WHOLE_JPEG_PIXELS` is decoded at a half, a quarter or an eighth.
    Transparency is composited onto white, as the reference processors do. Of an animation, an
    encoded source gives the first frame and a Pillow image its current one. Gray deeper than 8
    bits is scaled, not clipped: modes `I` and `I;16` hold 0 to 65535, mode `F` holds 0 to 1.

    Raises:
        InvalidInput: The source is missing, is no image of these kinds, is damaged, empty, too
            large, or holds values outside its range.
    """
    opening = (max_pixels, max_bytes, tuple(formats), admit)
    match source:
        case np.ndarray():
            return _to_rgb(_from_array(source, max_pixels))
        case Image.Image():
            _check_pixels(source.size, name, max_pixels)
            return _quietly(_decode, source, name)
        case bytes() | bytearray() | memoryview():
            return _quietly(_open, bytes(source), name, *opening)
        case str() | os.PathLike():
            data = read_image_file(source, max_bytes)
            return _quietly(_open, data, os.fspath(source), *opening)
        case other:
            raise InvalidInput(
                "expected an image as a path, bytes, a PIL image or a numpy array, "
                f"got {type(other).__name__}: convert it to one of these"
            )


def _quietly(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """The result even where Pillow's warnings are errors, so that no filter decides what loads.

    The filters belong to the whole process: they are only touched once one has struck.
    """
    try:
        return function(*args, **kwargs)
    except Warning:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **kwargs)


def read_image_file(source: str | os.PathLike[str], max_bytes: int = MAX_ENCODED_BYTES) -> bytes:
    """The bytes of a file, or the first `max_bytes` + 1 of them.

    Raises:
        InvalidInput: It cannot be read, or is a directory, a device or a pipe.
    """
    path = Path(source)
    try:
        if path.is_dir():
            raise InvalidInput(
                f"expected an image file, got the directory {path}: name a file in it"
            )
        if not path.exists():
            raise InvalidInput(f"expected an image file, but {path} does not exist: check the path")
        if not path.is_file():
            raise InvalidInput(f"expected an image file, got the device or pipe {path}: send bytes")
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"expected a readable image file at {str(path)!r}, got {error}: "
            "check path and permissions"
        ) from error


def _open(
    data: bytes,
    name: str,
    max_pixels: int,
    max_bytes: int,
    formats: tuple[str, ...],
    admit: Callable[[Header], None] | None,
) -> Image.Image:
    if not data:
        raise InvalidInput(f"expected an encoded image, but {name} has 0 bytes: send a whole file")
    if len(data) > max_bytes:
        raise InvalidInput(
            f"expected at most {max_bytes} bytes of encoded image, {name} has more: "
            "send a smaller image"
        )
    check_format(data, name, formats)
    check_jpeg(data, name)
    try:
        image = Image.open(io.BytesIO(data), formats=readable(formats))
    except Image.DecompressionBombError as error:
        raise InvalidInput(
            f"expected at most {max_pixels} pixels, {name} has more ({error}): send a smaller image"
        ) from error
    except PILLOW_ERRORS as error:
        raise InvalidInput(
            f"expected an image in one of {', '.join(formats)}, but {name} ({len(data)} bytes) "
            "is not one, or its header is damaged: convert it or send it again"
        ) from error
    with image:
        _check_pixels(image.size, name, max_pixels)
        header = prepare(image)
        if admit is not None:
            admit(header)
        return _decode(image, name, opened_here=True)


def _decode(image: Image.Image, name: str, *, opened_here: bool = False) -> Image.Image:
    """Upright RGB; an image that was `opened_here` may be the result itself, or is let go."""
    try:
        image.load()
        transpose = _TRANSPOSES.get(_orientation(image))
        if opened_here and image.mode == "RGB" and image.info.get("transparency") is None:
            image.info = {}
            rgb = image
        else:
            rgb = _to_rgb(image)
            if opened_here:
                image.close()
    except (Image.DecompressionBombError, *PILLOW_ERRORS) as error:
        raise InvalidInput(
            f"expected a whole image, but {name} is truncated or damaged ({error}): send it again"
        ) from error
    return rgb if transpose is None else rgb.transpose(transpose)


def _check_pixels(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidInput(
            f"expected at least 1 x 1 pixel, {name} is {width} x {height}: "
            "send an image with pixels"
        )
    if width * height > max_pixels:
        raise InvalidInput(
            f"expected at most {max_pixels} pixels, {name} is {width} x {height}: "
            "send a smaller image"
        )


def _orientation(image: Image.Image) -> int:
    """EXIF's 1 to 8; 1 where the tag is absent or the block unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except PILLOW_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image without metadata, which would otherwise rotate or composite it twice."""
    if image.width * image.height <= STRIP_PIXELS:
        return _converted(image)
    rgb = Image.new("RGB", image.size)
    step = max(1, STRIP_PIXELS // image.width)
    for row in range(0, image.height, step):
        end = min(row + step, image.height)
        rgb.paste(_converted(image.crop((0, row, image.width, end))), (0, row))
    return rgb


def _converted(image: Image.Image) -> Image.Image:
    image = _to_eight_bits(image)
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode != "F" and image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    if image.mode == "F":
        return Image.fromarray(_bytes_of_floats(values))
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65_535:
        raise InvalidInput(
            f"expected gray values from 0 to 65535 in a mode {image.mode} image, "
            f"got {low} to {high}: scale them"
        )
    gray = _bytes_of_uint16(values)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return Image.fromarray(gray)


def _from_array(array: NDArray[Any], max_pixels: int) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise InvalidInput(
            "expected an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], "
            f"got shape {list(array.shape)}: move the channels last, send one image at a time"
        )
    _check_pixels((array.shape[1], array.shape[0]), "the array", max_pixels)
    if array.dtype == np.uint16:
        array = _bytes_of_uint16(array)
    elif np.issubdtype(array.dtype, np.floating):
        array = _bytes_of_floats(array)
    elif array.dtype != np.uint8:
        raise InvalidInput(
            "expected an array of uint8, uint16 or float from 0 to 1, "
            f"got {array.dtype}: convert it with astype"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _bytes_of_uint16(values: NDArray[Any]) -> NDArray[np.uint8]:
    # 65535 = 257 x 255, so this rounds to the nearest of 256 levels.
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _bytes_of_floats(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        came = "NaN" if np.isnan(values).any() else f"{low:g} to {high:g}"
        raise InvalidInput(
            f"expected float pixels from 0 to 1, got {came}: "
            "divide by the largest value, or send uint8"
        )
    return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
