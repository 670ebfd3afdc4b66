"""Reconstruction of the reference world's images from features, per cut and bit rate.

Whoever has the bundle and a payload has the features that the cloud rebuilds. A decoder
(`decoder.py`) is trained on such features of the training split and evaluated on the test split,
beside the best JPEG file of the same bytes. Its results are a lower bound: a larger decoder that is
trained longer may recover more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from PIL import Image

from aligned_vq.data.scenes.exam import (
    QUESTIONS_PER_IMAGE,
    exam_images,
    training_images,
)
from aligned_vq.evaluation.baselines.images import ImageCoding
from aligned_vq.evaluation.examiner import Evaluator
from aligned_vq.evaluation.llava import LoadedLlava
from aligned_vq.shipped import CHECKPOINT
from benchmarks.leakage.cloud_features import UNQUANTIZED, CloudFeatures, cloud_features
from benchmarks.leakage.decoder import PixelDecoder, recover, train
from benchmarks.leakage.drawing import MEAN, ORIGINALS, plot, table
from benchmarks.leakage.jpeg import jpeg_within
from benchmarks.leakage.judge import Judge, Row, shrunk, stacked, unstacked
from benchmarks.leakage.likeness import Pixels
from benchmarks.leakage.settings import LeakageSettings

SETTINGS = LeakageSettings

__all__ = ["SETTINGS", "LeakageSettings", "measure", "plot", "table"]


def measure(settings: LeakageSettings) -> list[Row]:
    """Rows of the originals, the mean image, the images of each decoder, and JPEG beside them.

    Raises:
        ConfigError: no such cut or operating point.
    """
    count = settings.test_pictures
    exam = list(islice(exam_images(QUESTIONS_PER_IMAGE * count), count))
    examiner = Evaluator(LoadedLlava.load(CHECKPOINT), exam)
    vision = examiner.checkpoint.tower.vision
    grid = vision.image_size // vision.patch_size
    side = grid * settings.pixels_per_token
    known_images = list(training_images(settings.first_pictures + settings.train_pictures))
    # Without the images of the calibration, which codecs have seen.
    known = shrunk(known_images[settings.first_pictures :], side)
    # Of the training images: the best guess without any features.
    mean = np.mean(known, axis=0).round().astype(np.uint8)
    judge = Judge(examiner, side, settings.samples)
    rows = [
        {"name": ORIGINALS, **judge.of_originals()},
        {
            "name": f"{ORIGINALS} at {side} px",
            **judge.answers(judge.originals, f"{ORIGINALS}, small"),
        },
        {"name": MEAN, **judge.row([mean] * count, MEAN)},
    ]
    images = [*known_images, *(image.image for image in exam)]
    for features in cloud_features(examiner.checkpoint, images, settings):
        row = _recovered(features, known, judge, grid, settings)
        rows.append(row)
        # In the bytes of raw features any JPEG file fits.
        if features.codec != UNQUANTIZED:
            rows.append(_jpeg(row, judge, mean))
    return rows


def _recovered(
    source: CloudFeatures,
    known: Sequence[Pixels],
    judge: Judge,
    grid: int,
    settings: LeakageSettings,
) -> Row:
    """Train a decoder on the known images; a row about its reconstructions of the others."""
    label = f"{source.cut} {source.codec}"
    training, test = source.features[: len(known)], source.features[len(known) :]
    decoder = PixelDecoder(
        dim=source.features.shape[-1],
        grid=grid,
        pixels_per_token=settings.pixels_per_token,
        width=settings.width,
        blocks=settings.blocks,
        seed=settings.seed,
    )
    train(decoder, training, stacked(known), settings.steps, settings.seed, label)
    recovered = unstacked(recover(decoder, test))
    return {
        "name": label,
        "cut": source.cut,
        "codec": source.codec,
        "bytes": source.sizes_bytes[len(known) :],
        **judge.row(recovered, label),
    }


def _jpeg(row: Row, judge: Judge, mean: Pixels) -> Row:
    """The best JPEG file within each payload's bytes; where none fits, the mean image."""
    originals = [Image.fromarray(one) for one in judge.originals]
    files = [jpeg_within(one, size) for one, size in zip(originals, row["bytes"], strict=True)]
    side = len(mean)
    decoded = [
        mean if file is None else np.asarray(ImageCoding.decode(file, side)) for file in files
    ]
    name = f"JPEG beside {row['name']}"
    return {
        "name": name,
        "beside": row["name"],
        "bytes": [0 if file is None else len(file) for file in files],
        "files": sum(file is not None for file in files),
        **judge.row(decoded, name),
    }
