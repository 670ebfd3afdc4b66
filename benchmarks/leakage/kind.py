"""What a small decoder recovers of the reference world's pictures, per cut and bit rate.

Whoever has the bundle and a payload has the features that the cloud rebuilds. From these a decoder
(`decoder.py`) is trained on pictures of the training split and judged on the test split, beside
the best JPEG file of the same bytes. It is what this decoder recovers: a larger one, trained
longer, may recover more.
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
from benchmarks.leakage.decoder import PixelDecoder, recover, train
from benchmarks.leakage.drawing import MEAN, ORIGINALS, plot, table
from benchmarks.leakage.held import UNQUANTIZED, Held, held_features
from benchmarks.leakage.jpeg import jpeg_within
from benchmarks.leakage.judge import Judge, Row, shrunk, stacked, unstacked
from benchmarks.leakage.likeness import Pixels
from benchmarks.leakage.settings import LeakageSettings

SETTINGS = LeakageSettings

__all__ = ["SETTINGS", "LeakageSettings", "measure", "plot", "table"]


def measure(settings: LeakageSettings) -> list[Row]:
    """Rows of the originals, the mean picture, what each decoder recovers, and JPEG beside it.

    Raises:
        ConfigError: no such cut or operating point.
    """
    count = settings.test_pictures
    exam = list(islice(exam_images(QUESTIONS_PER_IMAGE * count), count))
    examiner = Evaluator(LoadedLlava.load(CHECKPOINT), exam)
    vision = examiner.checkpoint.tower.vision
    grid = vision.image_size // vision.patch_size
    side = grid * settings.pixels_per_token
    learned_from = list(training_images(settings.first_pictures + settings.train_pictures))
    known = shrunk(learned_from[settings.first_pictures :], side)
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
    pictures = [*learned_from, *(image.image for image in exam)]
    for held in held_features(examiner.checkpoint, pictures, settings):
        row = _recovered(held, known, judge, grid, settings)
        rows.append(row)
        if held.codec != UNQUANTIZED:
            rows.append(_jpeg(row, judge, mean))
    return rows


def _recovered(
    held: Held, known: Sequence[Pixels], judge: Judge, grid: int, settings: LeakageSettings
) -> Row:
    """Train a decoder on the known pictures; a row of what it recovers of the others."""
    label = f"{held.cut} {held.codec}"
    seen, unseen = held.features[: len(known)], held.features[len(known) :]
    decoder = PixelDecoder(
        dim=held.features.shape[-1],
        grid=grid,
        pixels_per_token=settings.pixels_per_token,
        width=settings.width,
        blocks=settings.blocks,
        seed=settings.seed,
    )
    train(decoder, seen, stacked(known), settings.steps, settings.seed, label)
    recovered = unstacked(recover(decoder, unseen))
    return {
        "name": label,
        "cut": held.cut,
        "codec": held.codec,
        "bytes": held.sizes_bytes[len(known) :],
        **judge.row(recovered, label),
    }


def _jpeg(row: Row, judge: Judge, mean: Pixels) -> Row:
    """The best JPEG file of at most each payload's bytes; where none fits, the mean picture."""
    originals = [Image.fromarray(one) for one in judge.originals]
    files = [jpeg_within(one, size) for one, size in zip(originals, row["bytes"], strict=True)]
    side = len(mean)
    seen = [mean if file is None else np.asarray(ImageCoding.decode(file, side)) for file in files]
    name = f"JPEG beside {row['name']}"
    return {
        "name": name,
        "beside": row["name"],
        "bytes": [0 if file is None else len(file) for file in files],
        "files": sum(file is not None for file in files),
        **judge.row(seen, name),
    }
