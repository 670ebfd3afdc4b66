"""Has the picture changed? Told from what the vision tower would see, before it runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.images.preprocess import View, normalize

DEFAULT_LEVEL = 0.3


class ChangeTest:
    """Compares the mean colours of the tower's patches with those of the last picture asked about.

    A mean over a patch's pixels hardly knows the sensor's noise, and the largest change of all
    patches hardly knows how small the object was that moved. What all patches have in common
    (their median) is the exposure, and does not count.

    Args:
        manifest: of the bundle: how pictures are prepared, and the patch size.
        level: a change of one patch by more than this is one, in standard deviations of the
            tower's input: 0.3 is about 20 of 255. On rendered scenes noise, compression and
            exposure made at most 0.2, one small object moved by 8 pixels at least 0.47
            (`python -m benchmarks.accuracy.change_test`).
    """

    def __init__(self, manifest: SplitManifest, level: float = DEFAULT_LEVEL) -> None:
        self._processor = manifest.processor
        self._side = manifest.tower.vision.patch_size
        self._level = level
        self._asked: NDArray[np.float32] | None = None

    def means(self, view: View) -> NDArray[np.float32]:
        """Mean colour of each patch, `[3, rows, columns]`."""
        pixels = normalize(view, self._processor)
        channels, height, width = pixels.shape
        rows, columns = height // self._side, width // self._side
        whole = pixels[:, : rows * self._side, : columns * self._side]
        patches = whole.reshape(channels, rows, self._side, columns, self._side)
        means: NDArray[np.float32] = patches.mean((2, 4))
        return means

    def differs(self, means: NDArray[np.float32]) -> bool:
        """Is it another picture than the last one asked about? The first one is."""
        return self._asked is None or change(self._asked, means) > self._level

    def asked(self, means: NDArray[np.float32]) -> None:
        """From now on this is what pictures are compared with."""
        self._asked = means


def change(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """The largest change of a patch's mean colour beyond what all patches have in common."""
    difference = after - before
    difference -= np.median(difference, (1, 2), keepdims=True)
    return float(np.abs(difference).max())
