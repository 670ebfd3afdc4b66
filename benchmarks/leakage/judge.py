"""Figures of reconstructed images, beside the originals."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aligned_vq.evaluation.baselines.images import resized
from aligned_vq.evaluation.examiner import Evaluator
from aligned_vq.evaluation.llava import PathOutput
from aligned_vq.evaluation.results import Verdicts
from benchmarks.leakage.likeness import Pixels, psnr_db, ssim

Row = dict[str, Any]


class Judge:
    """Compares reconstructions with an exam's originals, by pixels and the unsplit model's answers.

    Args:
        examiner: with the exam.
        side: pixels of the compared images; originals are resized to it.
        samples: number of the exam's first images in a row.
    """

    def __init__(self, examiner: Evaluator, side: int, samples: int) -> None:
        self._examiner = examiner
        self._samples = samples
        self.originals = shrunk((image.image for image in examiner.exam), side)
        pictures = [image.image for image in examiner.exam]
        # At full size: the answers that a reconstruction could give at best.
        self._reference = self._verdicts(pictures, "originals")

    def of_originals(self) -> Row:
        """The unsplit model's answers about the originals at full size; see `answers`."""
        return self._row(self._reference, self.originals)

    def answers(self, pictures: Sequence[Pixels], label: str) -> Row:
        """The unsplit model's answers about images `[H, W, 3]`, one for each image of the exam.

        `answers` is the share of questions with an exactly right answer, `kinds` the same by kind,
        `to_originals` the difference to the originals with its paired 95 % interval, `samples` the
        first images as WebP.
        """
        return self._row(
            self._verdicts([Image.fromarray(one) for one in pictures], label), pictures
        )

    def row(self, recovered: Sequence[Pixels], label: str) -> Row:
        """The same for images `[S, S, 3]`, with `psnr_db` and `ssim` of each to its original."""
        pairs = list(zip(self.originals, recovered, strict=True))
        return self.answers(recovered, label) | {
            "psnr_db": [round(psnr_db(*pair), 3) for pair in pairs],
            "ssim": [round(ssim(*pair), 4) for pair in pairs],
        }

    def _row(self, verdicts: Verdicts, pictures: Sequence[Pixels]) -> Row:
        difference = verdicts.answers_against(self._reference)
        kinds = verdicts.by_kind()
        return {
            "questions": len(verdicts.right),
            "answers": round(verdicts.answers, 4),
            "to_originals": {key: round(value, 4) for key, value in difference._asdict().items()},
            "kinds": {kind: round(score.share, 4) for kind, score in kinds.items()},
            "samples": [_webp(one) for one in pictures[: self._samples]],
        }

    def _verdicts(self, pictures: Sequence[Image.Image], label: str) -> Verdicts:
        examiner = self._examiner
        # `examine` passes the originals in order, in batches; each is replaced by the next image.
        remaining = iter(pictures)

        def path(originals: Sequence[Image.Image], _: Tensor) -> PathOutput:
            replacements = [next(remaining) for _ in originals]
            return examiner.unsplit(replacements, examiner.pixels(replacements))

        return examiner.examine(path, label).verdicts


def shrunk(pictures: Iterable[Image.Image], side: int) -> list[Pixels]:
    """Images with `side` pixels along the shorter side, by area where `side` divides their size."""
    resized_images = []
    for picture in pictures:
        factor, rest = divmod(min(picture.size), side)
        small = picture.reduce(factor) if not rest else resized(picture, side)
        resized_images.append(np.asarray(small))
    return resized_images


def stacked(pictures: Sequence[Pixels]) -> Tensor:
    """Images `[S, S, 3]` as one tensor `[M, 3, S, S]` uint8."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def unstacked(pictures: Tensor) -> list[Pixels]:
    """The inverse of `stacked`."""
    return list(pictures.permute(0, 2, 3, 1).numpy())


def sample_pictures(row: Row) -> list[Image.Image]:
    """The images in a row."""
    return [Image.open(BytesIO(base64.b64decode(one))).convert("RGB") for one in row["samples"]]


def _webp(picture: Pixels) -> str:
    file = BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=90, method=6)
    return base64.b64encode(file.getvalue()).decode("ascii")
