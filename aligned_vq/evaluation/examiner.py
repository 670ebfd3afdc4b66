"""Asks the reference world's questions under any way of bringing an image to the language model.

All questions of an image are examined in one forward pass: greedy decoding gives exactly the
expected answer if and only if the expected token has the largest logit at every place of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from aligned_vq.data.scenes.exam import ExamImage
from aligned_vq.evaluation.llava import FeaturePath, LoadedLlava, PathOutput
from aligned_vq.evaluation.results import Costs, ExamRow, Verdicts
from aligned_vq.evaluation.usage import codebook_usage
from aligned_vq.llava.packing import IGNORED, packed_logits, right_answers
from aligned_vq.types import Encoded, QuantizerConfig

BATCH_IMAGES = 8
SentT = TypeVar("SentT")


class NamedPath(Protocol):
    """A path that says what it is."""

    @property
    def name(self) -> str:
        """For people: short, and different for every path of an evaluation."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """For machines: JSON-able, what the path was built with."""

    @property
    def quantizer(self) -> QuantizerConfig | None:
        """Codebooks whose use is to be counted; None where there are none."""

    def __call__(self, pictures: Sequence[Image.Image], pixels: Tensor) -> PathOutput:
        """As `FeaturePath`."""


@dataclass(frozen=True, eq=False)
class Examination:
    """Everything that came out of one path."""

    verdicts: Verdicts
    costs: Costs
    encoded: tuple[Encoded, ...]
    """Empty where the path sends no indices."""


class Evaluator(LoadedLlava):
    """A LLaVA and the questions it is asked.

    Args:
        source: checkpoint directory or hub id; the model is held in float32.
        exam: pictures with their questions, as `exam_images` gives them.
        device: where the model runs; paths that hold halves of the tower take it from here.
        bf16: run projector and language model under bfloat16 autocast. Paths are left alone, so
            that what crosses stays the same.

    Raises:
        ValueError: the exam has no pictures.
        ConfigError: the checkpoint cannot be used.
    """

    def __init__(
        self,
        source: str | Path,
        exam: Sequence[ExamImage],
        *,
        device: torch.device | str = "cpu",
        bf16: bool = False,
    ) -> None:
        if not exam:
            raise ValueError("expected an exam with at least one picture")
        super().__init__(source, device=device)
        self.exam = tuple(exam)
        self._bf16 = bf16

    @torch.inference_mode()
    def examine(self, path: FeaturePath, label: str = "exam") -> Examination:
        """Ask everything, image by image in the exam's order, with a progress bar.

        Raises:
            ValueError: the exam has no short question or no description at all.
        """
        notes = _Notes()
        with tqdm(total=len(self.exam), desc=label, unit="image") as bar:
            for images in _batches(self.exam):
                pictures = [image.picture for image in images]
                output = path(pictures, self.pixels(pictures))
                notes.paid(output)
                self._ask(output.states, images, notes)
                bar.update(len(images))
        return notes.examination()

    def row(self, path: NamedPath, reference: Verdicts) -> ExamRow:
        """A path's figures beside the unsplit model's verdicts on the same exam (`ExamRow.of`)."""
        found = self.examine(path, path.name)
        usage = (
            codebook_usage(found.encoded, path.quantizer.codebook_sizes, path.quantizer.num_groups)
            if path.quantizer is not None and found.encoded
            else ()
        )
        return ExamRow.of(path.name, path.settings, found.verdicts, reference, found.costs, usage)

    def _ask(self, states: Tensor, images: Sequence[ExamImage], notes: _Notes) -> None:
        text = self.packer.pack([image.questions for image in images])
        with self._autocast():
            embeds = self.model.model.multi_modal_projector(states)
            logits = packed_logits(self.model, self.packer, embeds, text)
        # The last question of an image asks for its description: its words are counted one by one.
        last = text.segments == text.segments.max(1, keepdim=True).values
        words = last & (text.labels != IGNORED)
        hits = (logits.argmax(-1).cpu() == text.labels) & words
        verdicts = right_answers(logits, text)
        for image, own, asked, right in zip(
            images, verdicts, words.sum(1).tolist(), hits.sum(1).tolist(), strict=True
        ):
            notes.answered([question.kind for question in image.questions[:-1]], own[:-1])
            notes.words_asked.append(asked)
            notes.words_right.append(right)

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self._bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def on_edge(pixels: Tensor, send: Callable[[Tensor], SentT]) -> tuple[list[SentT], list[float]]:
    """What `send` makes of each image's pixels `[1, 3, H, W]`, and its milliseconds.

    One image at a time, as a camera has them. `send` must end with its result in main memory, so
    that the clock does not stop before the device does.
    """
    sent: list[SentT] = []
    milliseconds: list[float] = []
    for own in torch.split(pixels, 1):
        start = time.perf_counter_ns()
        sent.append(send(own))
        milliseconds.append((time.perf_counter_ns() - start) / 1e6)
    return sent, milliseconds


@dataclass
class _Notes:
    """What accumulates over an examination."""

    right: list[bool] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    words_right: list[int] = field(default_factory=list)
    words_asked: list[int] = field(default_factory=list)
    sent_bytes: list[int] = field(default_factory=list)
    fixed_bytes: list[int] = field(default_factory=list)
    edge_ms: list[float] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)

    def paid(self, output: PathOutput) -> None:
        self.sent_bytes += output.sent_bytes
        self.fixed_bytes += output.fixed_bytes or []
        self.edge_ms += output.edge_ms
        self.encoded += output.encoded or []

    def answered(self, kinds: Sequence[str], right: Sequence[bool]) -> None:
        """The short questions of the next image, before its words."""
        self.right += right
        self.kinds += kinds
        self.images += [len(self.words_asked)] * len(kinds)

    def examination(self) -> Examination:
        verdicts = Verdicts(
            right=np.array(self.right, np.bool_),
            kinds=tuple(self.kinds),
            images=np.array(self.images, np.int64),
            words_right=np.array(self.words_right, np.int64),
            words_asked=np.array(self.words_asked, np.int64),
        )
        costs = Costs(
            sent_bytes=np.array(self.sent_bytes, np.int64),
            fixed_bytes=np.array(self.fixed_bytes, np.int64) if self.fixed_bytes else None,
            edge_ms=np.array(self.edge_ms, np.float64),
        )
        return Examination(verdicts, costs, tuple(self.encoded))


def _batches(exam: Sequence[ExamImage]) -> Iterator[Sequence[ExamImage]]:
    for start in range(0, len(exam), BATCH_IMAGES):
        yield exam[start : start + BATCH_IMAGES]
