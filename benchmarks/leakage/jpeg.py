"""The best JPEG file that a number of bytes allows."""

from __future__ import annotations

import numpy as np
from PIL import Image

from aligned_vq.evaluation.baselines.images import ImageCoding
from benchmarks.leakage.likeness import psnr_db

SIDES = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 168, 224, 336)
"""Pixels of the shorter side of what is sent."""
QUALITIES = (1, 2, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 95)


def jpeg_within(picture: Image.Image, budget_bytes: int) -> bytes | None:
    """The JPEG file of at most so many bytes that is most like an RGB picture; None if none fits.

    Of every size that is not larger than the picture, the highest quality that fits; of these the
    one with the best PSNR, brought back (bicubic) to the picture's size. Files are whole, tables
    and headers included.
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
    found: bytes | None = None
    for quality in QUALITIES:
        file = ImageCoding("JPEG", quality, side).encode(picture)
        if len(file) > budget_bytes:
            break
        found = file
    return found
