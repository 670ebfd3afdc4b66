"""Corrections of an image before its encoder: noise taken out, light and contrast put back.

A change of light moves the means of an input's channels, low contrast narrows their spread. Both
are put to what they were in the images that the encoder was calibrated with, by the statistics of
the image alone or of the stream. A median takes out single wrong pixels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aligned_vq.images.preprocess import View, normalize
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.lqa.statistics import ChannelStatistics, channel_moments

_LEAST_SPREAD = 0.05
"""Of a normalised channel; less is not widened further, as it would be noise."""
_MEMORY = 0.1
"""Weight of a stream's newest image in its statistics."""
# Pairs of neighbours that are put in order, so that the middle one of nine is their median
# (Smith, Xilinx XCELL 23, 1996).
_MEDIAN_NETWORK = (
    *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3)),
    *((5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
)


Correction = Literal["none", "median", "image", "stream"]
"""Nothing; the median of each pixel's neighbourhood; alignment of the channels' mean and spread,
those of the image alone or of the stream, to those of calibration images."""
WITHOUT_STATISTICS: tuple[Correction, ...] = ("none", "median")
WITH_STATISTICS: tuple[Correction, ...] = (*WITHOUT_STATISTICS, "image", "stream")


class InputCorrections:
    """The corrections of one stream and the statistics of its images.

    Args:
        processor: how a view is normalised.
        wanted: statistics of calibration images; None: light and contrast are not corrected.
    """

    def __init__(self, processor: ProcessorSettings, wanted: ChannelStatistics | None) -> None:
        self.choices = WITHOUT_STATISTICS if wanted is None else WITH_STATISTICS
        self._processor = processor
        self._wanted = None if wanted is None else np.array([wanted.mean, wanted.spread])
        self._stream: NDArray[np.float64] | None = None
        self._seen = 0

    def see(self, view: View) -> None:
        """Count the statistics of the stream's next image."""
        if self._wanted is None:
            return
        moments = channel_moments(normalize(view, self._processor))
        self._seen += 1
        # The mean of the first images, then a running one.
        weight = max(1 / self._seen, _MEMORY)
        before = moments if self._stream is None else self._stream
        self._stream = (1 - weight) * before + weight * moments

    def corrected(self, view: View, correction: Correction) -> NDArray[np.float32]:
        """An image that was seen, corrected: `[3, S, S]`, normalised."""
        if correction == "median":
            view = View(median_of_neighbours(view.pixels), view.modality)
        pixels = normalize(view, self._processor)
        if correction not in ("image", "stream") or self._wanted is None:
            return pixels
        found = channel_moments(pixels) if correction == "image" else self._stream
        assert found is not None  # `see` came before
        gain = self._wanted[1] / np.maximum(found[1], _LEAST_SPREAD)
        shift = self._wanted[0] - gain * found[0]
        aligned: NDArray[np.float32] = pixels * gain.astype(np.float32)[:, None, None]
        aligned += shift.astype(np.float32)[:, None, None]
        return aligned


def median_of_neighbours(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The median of each pixel and the eight around it, in each channel of uint8 `[H, W, 3]`."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), "edge")
    nine = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    for low, high in _MEDIAN_NETWORK:
        nine[low], nine[high] = np.minimum(nine[low], nine[high]), np.maximum(nine[low], nine[high])
    return nine[4]
