"""The best JPEG file within a number of bytes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from aligned_vq.evaluation.baselines.images import ImageCoding
from benchmarks.leakage.likeness import psnr_db

SIDES = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 168, 224, 336)
"""Candidates for the pixels of the shorter side."""
QUALITIES = (1, 2, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 95)


def jpeg_within(picture: Image.Image, budget_bytes: int) -> bytes | None:
    """The best JPEG file of an RGB image within a budget; None if no file fits.

    For every size up to the image's, the highest quality that fits is a candidate. The best
    candidate has the highest PSNR when resized (bicubic) to the image's size. The budget is for
    whole files, tables and headers included.
    """
    shorter = min(picture.size)
    original = np.asarray(picture)
    best: bytes | None = None
    best_db = -np.inf
    for side in (side for side in SIDES if side <= shorter):
        file = _highest_quality(picture, side, budget_bytes)
        if file is None:
            break  # a larger one needs more
        db = psnr_db(original, np.asarray(ImageCoding.decode(file, shorter)))
        if db > best_db:
            best, best_db = file, db
    return best


def _highest_quality(picture: Image.Image, side: int, budget_bytes: int) -> bytes | None:
    best: bytes | None = None
    for quality in QUALITIES:
        file = ImageCoding("JPEG", quality, side).encode(picture)
        # Qualities ascend, and a higher one needs more.
        if len(file) > budget_bytes:
            break
        best = file
    return best
