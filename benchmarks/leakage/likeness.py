"""Similarity of two images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

Pixels = NDArray[np.uint8]
DATA_RANGE = 255


def psnr_db(original: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio of images `[H, W, 3]`, over all channels, in decibels."""
    return float(peak_signal_noise_ratio(original, other, data_range=DATA_RANGE))


def ssim(original: Pixels, other: Pixels) -> float:
    """Structural similarity of images `[H, W, 3]`, averaged over channels and pixels; 1 if equal.

    With the settings of Wang et al. (2004): a Gaussian window of 11 x 11 pixels, sigma 1.5.
    """
    return float(
        structural_similarity(
            original,
            other,
            channel_axis=-1,
            data_range=DATA_RANGE,
            gaussian_weights=True,
            sigma=1.5,
            # The paper weights by the window alone, without Bessel's correction.
            use_sample_covariance=False,
        )
    )
