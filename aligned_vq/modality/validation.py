"""Scores a prefix on views that it is not trained on, with payloads as a device sends them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from aligned_vq.codec.feature_codec import FeatureCodec
from aligned_vq.modality.config import ModalityRunConfig
from aligned_vq.modality.distillation import divergence
from aligned_vq.modality.lessons import Lesson, Lessons, Teacher, compared
from aligned_vq.precision import autocast

SELECTION = "selection"
_IMAGES_AT_ONCE = 8


class _Part(NamedTuple):
    """Scores of some images."""

    answers: float
    agreement: float
    sizes: list[int]


@dataclass(frozen=True)
class PrefixValidation:
    """Payloads at the default operating point, decoded and answered.

    Args:
        lessons: of the validation part.
        teacher: with the frozen model around the codec.
        codec: both halves of the bundle's.
        config: of the run.
    """

    lessons: Lessons
    teacher: Teacher
    codec: FeatureCodec
    config: ModalityRunConfig

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Scores of a prefix in eval mode.

        "answers" is the mean divergence of the answers' distributions, "agreement" the share of
        compared tokens of which the most probable one is the teacher's, "bytes" the mean size of
        payload bodies. "selection" is minus the divergence, less what exceeding the limit of bytes
        costs in training.
        """
        count = min(len(self.lessons), self.config.data.validation_images)
        parts = [
            self._answered(model, self.lessons.lesson(range(first, end)))
            for first in range(0, count, _IMAGES_AT_ONCE)
            if (end := min(first + _IMAGES_AT_ONCE, count))
        ]
        sizes = [size for part in parts for size in part.sizes]
        shares = [len(part.sizes) / count for part in parts]
        answers = sum(s * part.answers for s, part in zip(shares, parts, strict=True))
        agreement = sum(s * part.agreement for s, part in zip(shares, parts, strict=True))
        mean_bytes = sum(sizes) / count
        limit = self.config.max_mean_bytes or math.inf
        excess = self.config.rate * max(0.0, mean_bytes / limit - 1)
        return {
            "answers": answers,
            "agreement": agreement,
            "bytes": mean_bytes,
            SELECTION: -answers - excess,
        }

    def _answered(self, model: nn.Module, lesson: Lesson) -> _Part:
        device = self.teacher.device
        taught = lesson.taught
        if taught is None:
            assert lesson.rgb is not None
            taught = self.teacher(lesson.rgb, lesson.text)
        features, residual = model(lesson.pixels.to(device))
        payloads = [self.codec.compress(*image) for image in zip(features, residual, strict=True)]
        decoded = [self.codec.decompress(payload) for payload in payloads]
        split, bfloat16 = self.teacher.model, self.config.bfloat16
        with autocast(device.type, bfloat16):
            hidden = split.suffix(*(torch.stack(part) for part in zip(*decoded, strict=True)))
            logits = split.logits(hidden, lesson.text)
        target = taught.logits.to(device)
        own = logits[compared(lesson.text).to(device)]
        return _Part(
            float(divergence(logits, target, lesson.text)),
            float((own.argmax(-1) == target.argmax(-1)).float().mean()),
            [len(payload.body) for payload in payloads],
        )
