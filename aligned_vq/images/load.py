"""Loading of image files, bytes, Pillow images and arrays as upright pixels.

Input may be untrusted. Only common raster formats are opened (not PostScript, for which Pillow runs
an external program), and format, size and scans are checked before pixels are decoded. Limits of
time and memory are enforced by `edge_client.decoding`.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.errors import InvalidInput
from aligned_vq.images.conversion import rgb_from_array, to_rgb, to_single_channel
from aligned_vq.images.formats import FORMATS, check_format, readable
from aligned_vq.images.jpeg_segments import check_jpeg
from aligned_vq.images.modality import Modality, Pixels
from aligned_vq.images.pillow_errors import PILLOW_ERRORS
from aligned_vq.images.reduced_decoding import Header, prepare

ImageSource = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.generic]
)

MAX_PIXELS = 64 * 2**20
MAX_ENCODED_BYTES = 64 * 2**20
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

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _OpeningLimits(NamedTuple):
    """How a file or byte string may be opened; see `load_image`."""

    max_pixels: int
    max_bytes: int
    formats: tuple[str, ...]
    admit: Callable[[Header], None] | None = None


_Convert = Callable[[Image.Image], Image.Image]


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
        max_pixels: Maximum size, checked before decoding.
        max_bytes: Maximum size of encoded images.
        formats: Allowed formats of encoded images, from `FORMATS`.
        admit: Called with an encoded image's header before decoding; may raise to reject it.
        name: Of bytes or a Pillow image, for messages.

    The EXIF orientation is applied and removed, so loading the result again changes nothing. A
    JPEG of more than `WHOLE_JPEG_PIXELS` is decoded at 1/2, 1/4 or 1/8 of its size. Transparency is
    composited onto white, as the reference processors do. An encoded animation gives its first
    frame, a Pillow image its current one. Gray values of more than 8 bits are scaled, not clipped:
    from 0 to 65535 in modes `I` and `I;16`, from 0 to 1 in mode `F`.

    Raises:
        InvalidInput: The source does not exist, is not an image of these kinds, is damaged, empty
            or too large, or has values out of range.
    """
    return _load_rgb(source, name, _OpeningLimits(max_pixels, max_bytes, tuple(formats), admit))


def load_pixels(
    source: ImageSource,
    modality: Modality = "rgb",
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_ENCODED_BYTES,
    formats: Sequence[str] = FORMATS,
    admit: Callable[[Header], None] | None = None,
    name: str = "the image",
) -> Pixels:
    """Upright pixels of a modality, at the depth they are stored with.

    Args:
        source: As for `load_image`. Files and Pillow images of `depth` and `infrared` have one
            channel; colour is converted to luma. `bands` must be an array.
        modality: What the camera measures.
        max_pixels: Maximum size, checked before decoding.
        max_bytes: Maximum size of encoded images.
        formats: Allowed formats of encoded images, from `FORMATS`.
        admit: As for `load_image`.
        name: Of bytes or a Pillow image, for messages.

    Raises:
        InvalidInput: As `load_image`; or the modality does not allow the shape or dtype.
    """
    limits = _OpeningLimits(max_pixels, max_bytes, tuple(formats), admit)
    if modality == "rgb":
        return Pixels(np.asarray(_load_rgb(source, name, limits)))
    if isinstance(source, np.ndarray):
        _check_array_size(source, max_pixels)
        values = source[:, :, None] if source.ndim == 2 else source
        return Pixels(np.ascontiguousarray(values), modality)
    if modality == "bands":
        raise InvalidInput(
            f"expected an array [H, W, C] of spectral bands, got {type(source).__name__}: read the "
            "file with the library of its format"
        )
    image = _load(source, name, limits, to_single_channel)
    return Pixels(np.asarray(image)[:, :, None], modality)


def _load_rgb(source: ImageSource, name: str, limits: _OpeningLimits) -> Image.Image:
    if isinstance(source, np.ndarray):
        _check_array_size(source, limits.max_pixels)
        return rgb_from_array(source)
    return _load(source, name, limits, to_rgb)


def _load(source: object, name: str, limits: _OpeningLimits, convert: _Convert) -> Image.Image:
    match source:
        case Image.Image():
            _check_pixels(source.size, name, limits.max_pixels)
            return _without_warnings(_decode, source, name, convert)
        case bytes() | bytearray() | memoryview():
            return _without_warnings(_open, bytes(source), name, limits, convert)
        case str() | os.PathLike():
            data = read_image_file(source, limits.max_bytes)
            return _without_warnings(_open, data, os.fspath(source), limits, convert)
        case other:
            raise InvalidInput(
                "expected an image as a path, bytes, a PIL image or a numpy array, "
                f"got {type(other).__name__}: convert it to one of these"
            )


def _without_warnings(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """The function's result, even where warning filters turn Pillow's warnings into errors."""
    # Filters are global to the process, so they are changed only after a warning was raised.
    try:
        return function(*args, **kwargs)
    except Warning:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **kwargs)


def read_image_file(source: str | os.PathLike[str], max_bytes: int = MAX_ENCODED_BYTES) -> bytes:
    """The bytes of a file, at most the first `max_bytes` + 1, so that the excess is noticed.

    Raises:
        InvalidInput: The file cannot be read, or is a directory, a device or a pipe.
    """
    path = Path(source)
    try:
        if path.is_dir():
            raise InvalidInput(
                f"expected an image file, got the directory {path}: name a file in it"
            )
        if not path.exists():
            raise InvalidInput(f"expected an image file, but {path} does not exist: check the path")
        # Opening a pipe would wait for a writer.
        if not path.is_file():
            raise InvalidInput(f"expected an image file, got the device or pipe {path}: send bytes")
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"expected a readable image file at {str(path)!r}, got {error}: "
            "check path and permissions"
        ) from error


def _open(data: bytes, name: str, limits: _OpeningLimits, convert: _Convert) -> Image.Image:
    max_pixels, max_bytes, formats, admit = limits
    if not data:
        raise InvalidInput(f"expected an encoded image, but {name} has 0 bytes: send a whole file")
    if len(data) > max_bytes:
        raise InvalidInput(
            f"expected at most {max_bytes} bytes of encoded image, {name} has more: "
            "send a smaller image"
        )
    # Both read the bytes only: Pillow opens nothing before they pass.
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
        return _decode(image, name, convert, opened_here=True)


def _decode(
    image: Image.Image, name: str, convert: _Convert, *, opened_here: bool = False
) -> Image.Image:
    """The decoded image, converted and upright.

    An image that was `opened_here` may be returned itself, without a copy; otherwise it is closed.
    A caller's image is neither changed nor closed.
    """
    try:
        image.load()
        # Before the conversion, whose result has no EXIF.
        transpose = _TRANSPOSES.get(_orientation(image))
        # An RGB PNG may declare one colour transparent.
        plain = image.mode == "RGB" and image.info.get("transparency") is None
        if opened_here and plain and convert is to_rgb:
            image.info = {}
            converted = image
        else:
            converted = convert(image)
            if opened_here:
                image.close()
    except (Image.DecompressionBombError, *PILLOW_ERRORS) as error:
        raise InvalidInput(
            f"expected a whole image, but {name} is truncated or damaged ({error}): send it again"
        ) from error
    return converted if transpose is None else converted.transpose(transpose)


def _check_array_size(array: NDArray[np.generic], max_pixels: int) -> None:
    if array.ndim > 1:  # the shape of any other is rejected where it is converted
        _check_pixels((array.shape[1], array.shape[0]), "the array", max_pixels)


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
    """The EXIF orientation, 1 to 8; 1 if the tag is missing or EXIF cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except PILLOW_ERRORS:
        return 1
    return value if isinstance(value, int) else 1
