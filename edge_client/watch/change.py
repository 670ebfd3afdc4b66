"""Change detection on the input of the vision tower, before the tower runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.images.preprocess import View, normalize

DEFAULT_LEVEL = 0.3


class ChangeTest:
    """Compares the mean colours of the tower's patches with those of a reference image.

    Averaging over a patch suppresses sensor noise, and the maximum over patches detects small
    objects. The change that all patches share (their median) is the exposure, and is subtracted.

    Args:
        manifest: of the bundle: image preparation and patch size.
        level: threshold on the change of one patch, in standard deviations of the tower's input;
            0.3 is about 20 of 255. On rendered scenes, noise, compression and exposure changed a
            patch by at most 0.2, and one small object moved by 8 pixels by at least 0.47
            (`python -m benchmarks.accuracy.change_test`).
    """

    def __init__(self, manifest: SplitManifest, level: float = DEFAULT_LEVEL) -> None:
        self._processor = manifest.processor
        self._patch_size = manifest.tower.vision.patch_size
        self._level = level
        self._reference: NDArray[np.float32] | None = None

    def means(self, view: View) -> NDArray[np.float32]:
        """Mean colour of each patch, `[3, rows, columns]` float32, normalised."""
        pixels = normalize(view, self._processor)
        channels, height, width = pixels.shape
        size = self._patch_size
        rows, columns = height // size, width // size
        # The tower ignores pixels beyond the last whole patch as well.
        covered = pixels[:, : rows * size, : columns * size]
        patches = covered.reshape(channels, rows, size, columns, size)
        means: NDArray[np.float32] = patches.mean((2, 4))
        return means

    def differs(self, means: NDArray[np.float32]) -> bool:
        """Whether these means differ from the reference; True without a reference."""
        return self._reference is None or change(self._reference, means) > self._level

    def set_reference(self, means: NDArray[np.float32]) -> None:
        """Compare further images with this one."""
        self._reference = means


def change(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """The largest absolute change of a patch's mean colour, the median change subtracted.

    Args:
        before: means `[3, rows, columns]`.
        after: means of the same shape.
    """
    difference = after - before
    # Per channel, which also removes a change of the white balance.
    difference -= np.median(difference, (1, 2), keepdims=True)
    return float(np.abs(difference).max())
