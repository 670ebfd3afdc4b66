"""Resizing of images in which some pixels hold no measurement, such as depth maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.images.preprocess import Crop, framing
from aligned_vq.images.processor import HeightWidth, ProcessorSettings

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in source pixels; need not be whole."""
_MIN_WEIGHT = 0.5
"""Of valid pixels under the filter: the holes of a map keep their size on average."""


def frame_valid(
    values: NDArray[np.float32], valid: NDArray[np.bool_], settings: ProcessorSettings
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """An image with holes, framed as `view_of` frames colour: padded, resized and cropped.

    Args:
        values: `[H, W]`.
        valid: `[H, W]`.
        settings: sides and steps; the filter is that of `resize_valid`.

    Returns:
        Values and the mask, both `settings.output_size`; what lies outside the image is invalid.

    Raises:
        InvalidInput: the image is to be padded and has a side of more than `MAX_PADDED_SIDE`.
    """
    padded, resized, row_crop, column_crop = framing(*values.shape, settings)
    rows = _Span.seen(row_crop, values.shape[0], padded[0], resized[0])
    columns = _Span.seen(column_crop, values.shape[1], padded[1], resized[1])
    place = np.s_[
        rows.offset : rows.offset + rows.length, columns.offset : columns.offset + columns.length
    ]
    framed = np.zeros(settings.output_size, np.float32), np.zeros(settings.output_size, np.bool_)
    box = columns.low, rows.low, columns.high, rows.high
    framed[0][place], framed[1][place] = resize_valid(
        values, valid, (rows.length, columns.length), box
    )
    return framed


class _Span(NamedTuple):
    """One axis of what is seen of an image: source pixels `low` to `high` become `length` pixels of
    the output, from `offset`."""

    low: float
    high: float
    length: int
    offset: int

    @classmethod
    def seen(cls, crop: Crop, source: int, padded: int, resized: int) -> _Span:
        """The span of a crop of the resized image.

        Args:
            crop: of the resized image.
            source: side of the image.
            padded: side with the borders around it.
            resized: what the padded side becomes.
        """
        scale, border = padded / resized, (padded - source) // 2
        # Where the image lies among the resized pixels, to the nearest one.
        first = max(crop.start, round(border / scale))
        end = min(crop.start + crop.length, round((border + source) / scale))
        end = max(end, first + 1)  # of a line that is thinner than a pixel
        low, high = (min(max(at * scale - border, 0.0), source) for at in (first, end))
        return cls(low, high, end - first, crop.offset + first - crop.start)


def resize_valid(
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    size: HeightWidth,
    box: Box | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The valid pixels of an image, or of a box of it, resized without the invalid ones.

    Values times mask and the mask are resized alike and divided (normalised convolution, Knutsson
    and Westin, CVPR 1993), so that each result is a mean of valid pixels only. A plain resize would
    surround every hole with depths that are not in the scene. Nearest neighbours would not, but
    they skip most pixels of a large map, and noise is not averaged. The filter is bilinear: bicubic
    filters have negative weights, whose sum over some pixels of a window may be near 0.

    Args:
        values: `[H, W]`; invalid values are ignored, even if not finite.
        valid: `[H, W]`.
        size: (height, width) of the result.
        box: the part to resize; all of it by default.

    Returns:
        Values, 0 where invalid, and the mask; both `[height, width]`.
    """
    if valid.all():
        return _resize(values, size, box), np.ones(size, np.bool_)
    weights = _resize(valid.astype(np.float32), size, box)
    sums = _resize(np.where(valid, values, np.float32(0)), size, box)
    enough = weights >= _MIN_WEIGHT
    # The maximum only prevents divisions by 0 where the result is not used.
    means = np.where(enough, sums / np.maximum(weights, _MIN_WEIGHT), np.float32(0))
    return means, enough


def _resize(values: NDArray[np.float32], size: HeightWidth, box: Box | None) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(values))  # mode F
    height, width = size
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR, box=box))
