"""Resizing of images in which some pixels hold no measurement, such as depth maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.images.processor import HeightWidth

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in source pixels; need not be whole."""
_MIN_WEIGHT = 0.5
"""Of valid pixels under the filter: the holes of a map keep their size on average."""


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
