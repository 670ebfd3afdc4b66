"""Figures of pictures that somebody recovered, beside the originals."""

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
    """Compares with the originals of an exam, and asks the unsplit model about what was recovered.

    Args:
        examiner: with the exam.
        side: pixels of the pictures compared; originals are brought to it.
        samples: how many of the exam's first pictures a row holds.
    """

    def __init__(self, examiner: Evaluator, side: int, samples: int) -> None:
        self._examiner = examiner
        self._samples = samples
        self.originals = shrunk((image.image for image in examiner.exam), side)
        pictures = [image.image for image in examiner.exam]
        self._reference = self._verdicts(pictures, "originals")

    def of_originals(self) -> Row:
        """What the model answers about the originals at their own size; see `answers`."""
        return self._row(self._reference, self.originals)

    def answers(self, pictures: Sequence[Pixels], label: str) -> Row:
        """What the unsplit model answers about a picture `[H, W, 3]` for each of the exam's.

        `answers`, the share of the questions that it answers exactly, also by kind, and the
        difference to the originals with its paired 95 % interval; with the first pictures as WebP.
        """
        return self._row(
            self._verdicts([Image.fromarray(one) for one in pictures], label), pictures
        )

    def row(self, recovered: Sequence[Pixels], label: str) -> Row:
        """The same of pictures `[S, S, 3]`, with `psnr_db` and `ssim` of each to its original."""
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
            "to_originals": {key: round(own, 4) for key, own in difference._asdict().items()},
            "kinds": {kind: round(score.share, 4) for kind, score in kinds.items()},
            "samples": [_webp(one) for one in pictures[: self._samples]],
        }

    def _verdicts(self, pictures: Sequence[Image.Image], label: str) -> Verdicts:
        examiner = self._examiner
        given = iter(pictures)

        def path(asked_about: Sequence[Image.Image], _: Tensor) -> PathOutput:
            own = [next(given) for _ in asked_about]
            return examiner.unsplit(own, examiner.pixels(own))

        return examiner.examine(path, label).verdicts


def shrunk(pictures: Iterable[Image.Image], side: int) -> list[Pixels]:
    """Pictures at `side` pixels of their shorter side, by area where that divides their size."""
    found = []
    for picture in pictures:
        factor, rest = divmod(min(picture.size), side)
        small = picture.reduce(factor) if not rest else resized(picture, side)
        found.append(np.asarray(small))
    return found


def stacked(pictures: Sequence[Pixels]) -> Tensor:
    """Pictures `[S, S, 3]` as one tensor `[M, 3, S, S]` uint8."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def unstacked(pictures: Tensor) -> list[Pixels]:
    """The contrary of `stacked`."""
    return list(pictures.permute(0, 2, 3, 1).numpy())


def sample_pictures(row: Row) -> list[Image.Image]:
    """The pictures that a row holds."""
    return [Image.open(BytesIO(base64.b64decode(one))).convert("RGB") for one in row["samples"]]


def _webp(picture: Pixels) -> str:
    file = BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=90, method=6)
    return base64.b64encode(file.getvalue()).decode("ascii")
