"""How well a model answers the reference world's test questions, with or without the split.

All questions of an image are examined in one forward pass: greedy decoding gives exactly the
expected answer if and only if the expected token has the largest logit at every place of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from aligned_vq.calibrate import load_prefix, pixel_batches, suffix_names
from aligned_vq.codec import FeatureCodec
from aligned_vq.reference.packing import IGNORED, PackedText, Packer, packed_logits, right_answers
from aligned_vq.reference.questions import DESCRIBE, KINDS, Question, describe, short_questions
from aligned_vq.reference.scenes import Split, render, sample_scene, scene_rng
from aligned_vq.split.checkpoint import LlavaCheckpoint
from aligned_vq.split.vision import build_suffix
from aligned_vq.types import SplitPoint

QUESTIONS_PER_IMAGE = 8
ImageToStates = Callable[[Tensor], Tensor]
"""Pixels `[B, 3, H, W]` to the hidden states LLaVA's projector reads, `[B, N', D]`."""


@dataclass(frozen=True)
class ExamImage:
    """A test picture with its questions; the last one asks for a description."""

    picture: Image.Image
    questions: tuple[Question, ...]


@dataclass
class Report:
    """Right answers by kind; exact match, greedy."""

    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    majority: Counter[str] = field(default_factory=Counter)
    """Right answers of always giving the kind's most frequent answer."""
    words_asked: int = 0
    words_right: int = 0
    """Tokens of descriptions, each predicted after the true ones before it."""

    def accuracy(self, kind: str) -> float:
        """Share of one kind answered exactly."""
        return self.right[kind] / self.asked[kind]

    @property
    def answers(self) -> float:
        """Share of all short questions answered exactly."""
        return sum(self.right[kind] for kind in KINDS) / sum(self.asked[kind] for kind in KINDS)

    @property
    def words(self) -> float:
        """Share of the descriptions' tokens predicted right."""
        return self.words_right / self.words_asked

    def to_dict(self) -> dict[str, Any]:
        """JSON-able figures."""
        kinds = {
            kind: {
                "questions": self.asked[kind],
                "exact_match": round(self.accuracy(kind), 4),
                "majority_answer": round(self.majority[kind] / self.asked[kind], 4),
            }
            for kind in (*KINDS, DESCRIBE)
            if self.asked[kind]
        }
        total = sum(self.asked[kind] for kind in KINDS)
        return {
            "questions": total,
            "exact_match": round(self.answers, 4),
            "majority_answer": round(sum(self.majority[kind] for kind in KINDS) / total, 4),
            "description_words": round(self.words, 4),
            "kinds": kinds,
        }


def exam_images(num_questions: int, split: Split = "test") -> Iterator[ExamImage]:
    """Pictures of a split with at least `num_questions` short questions in all."""
    asked = index = 0
    while asked < num_questions:
        rng = scene_rng(split, index)
        scene = sample_scene(rng)
        short = short_questions(scene, rng, QUESTIONS_PER_IMAGE)[: num_questions - asked]
        asked += len(short)
        index += 1
        picture = Image.fromarray(render(scene).pixels)
        yield ExamImage(picture, (*short, describe(scene, rng)))


def training_pictures(count: int) -> Iterator[Image.Image]:
    """Pictures of the training split, for calibration."""
    for index in range(count):
        yield Image.fromarray(render(sample_scene(scene_rng("train", index))).pixels)


class ReferenceExaminer:
    """The reference model, its test questions, and what they give under any feature path."""

    def __init__(self, source: str | Path, num_questions: int = 2000) -> None:
        from transformers import AutoTokenizer, LlavaForConditionalGeneration

        self.checkpoint = LlavaCheckpoint(source)
        self.model = LlavaForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
        self.model.eval().requires_grad_(False)
        self._packer = Packer(AutoTokenizer.from_pretrained(source))
        self.exam = list(exam_images(num_questions))
        pictures = (image.picture for image in self.exam)
        self.pixels = list(pixel_batches(self.checkpoint, pictures))

    def unsplit(self, pixels: Tensor) -> Tensor:
        """The whole tower, as transformers runs it."""
        states = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        selected: Tensor = states[self.model.config.vision_feature_layer][:, 1:]
        return selected

    def split_path(self, split: SplitPoint, codec: FeatureCodec) -> ImageToStates:
        """Prefix, codec and suffix, indices and all, image by image."""
        tower = self.checkpoint.tower
        prefix = load_prefix(self.checkpoint, split)
        tensors = self.checkpoint.vision_tensors(suffix_names(self.checkpoint, split))
        suffix = build_suffix(tower, split, {name: t.float() for name, t in tensors.items()})

        def path(pixels: Tensor) -> Tensor:
            features, residual = prefix(pixels)
            decoded = [
                codec.decode(codec.encode(own, stream))
                for own, stream in zip(features, residual, strict=True)
            ]
            rebuilt, streams = (torch.stack(part) for part in zip(*decoded, strict=True))
            selected: Tensor = suffix(rebuilt, streams)
            return selected

        return path

    @torch.inference_mode()
    def examine(self, states: ImageToStates, label: str = "exam") -> Report:
        """Ask everything."""
        report = Report()
        given: dict[str, Counter[str]] = {}
        images = iter(self.exam)
        for pixels in tqdm(self.pixels, desc=label, unit="batch"):
            batch = [next(images) for _ in range(len(pixels))]
            embeds = self.model.model.multi_modal_projector(states(pixels))
            text, logits = self._logits(embeds, batch)
            for image, verdicts in zip(batch, right_answers(logits, text), strict=True):
                _count(report, given, image.questions, verdicts)
            last = text.segments == text.segments.max(1, keepdim=True).values
            words = last & (text.labels != IGNORED)
            report.words_asked += int(words.sum())
            report.words_right += int((logits.argmax(-1) == text.labels)[words].sum())
        for kind, answers in given.items():
            report.majority[kind] = answers.most_common(1)[0][1]
        return report

    @torch.inference_mode()
    def verdicts(self, embeds: Tensor, images: Sequence[ExamImage]) -> list[list[bool]]:
        """Per image and question whether image embeddings `[B, N', H]` give the right answer."""
        text, logits = self._logits(embeds, images)
        return right_answers(logits, text)

    def _logits(self, embeds: Tensor, images: Sequence[ExamImage]) -> tuple[PackedText, Tensor]:
        text = self._packer.pack([image.questions for image in images])
        return text, packed_logits(self.model, self._packer, embeds, None, text)


def _count(
    report: Report,
    given: dict[str, Counter[str]],
    questions: Sequence[Question],
    verdicts: Sequence[bool],
) -> None:
    for question, verdict in zip(questions, verdicts, strict=True):
        report.asked[question.kind] += 1
        report.right[question.kind] += verdict
        given.setdefault(question.kind, Counter())[question.answer] += 1
