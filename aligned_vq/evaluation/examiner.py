"""Evaluation of paths on the reference world's questions.

All questions about an image are evaluated in one forward pass, without generation: greedy decoding
gives the expected answer if and only if the expected token has the largest logit at each position.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
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
    """A `FeaturePath` with a description."""

    @property
    def name(self) -> str:
        """A short name, distinct from those of other paths."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The parameters of the path as JSON values."""

    @property
    def quantizer(self) -> QuantizerConfig | None:
        """Geometry of the codebooks whose usage is reported; None: the path has none."""

    def __call__(self, images: Sequence[Image.Image], pixels: Tensor) -> PathOutput:
        """See `FeaturePath`."""


@dataclass(frozen=True, eq=False)
class Examination:
    """The results of one path."""

    verdicts: Verdicts
    costs: Costs
    encoded: tuple[Encoded, ...]
    """Empty if the path sends no indices."""


class Evaluator(LoadedLlava):
    """A LLaVA with a set of questions.

    Args:
        llava: the model.
        exam: images with questions, from `exam_images`.
        bf16: run projector and language model with bfloat16 autocast. Paths are not affected, so
            payloads stay the same.

    Raises:
        ValueError: the exam has no images.
    """

    def __init__(
        self, llava: LoadedLlava, exam: Sequence[ExamImage], *, bf16: bool = False
    ) -> None:
        if not exam:
            raise ValueError("expected an exam with at least one image, got none")
        super().__init__(llava.checkpoint, llava.model, llava.processor)
        self.exam = tuple(exam)
        self._bf16 = bf16

    @torch.inference_mode()
    def examine(self, path: FeaturePath, label: str = "exam") -> Examination:
        """The results of a path on all questions; shows a progress bar named `label`.

        Raises:
            ValueError: the exam has no short question or no description.
        """
        results = _Results()
        with tqdm(total=len(self.exam), desc=label, unit="image") as bar:
            for batch in _batches(self.exam):
                images = [exam_image.image for exam_image in batch]
                # Outside of autocast, on which payloads must not depend.
                output = path(images, self.pixels(images))
                results.add_costs(output)
                self._evaluate(output.states, batch, results)
                bar.update(len(batch))
        return results.examination()

    def row(self, path: NamedPath, reference: Verdicts) -> ExamRow:
        """A path's row; `reference` are the unsplit model's verdicts on the same exam."""
        result = self.examine(path, path.name)
        config = path.quantizer
        usage = (
            codebook_usage(result.encoded, config.codebook_sizes, config.num_groups)
            if config is not None and result.encoded
            else ()
        )
        costs = result.costs
        return ExamRow.of(path.name, path.settings, result.verdicts, reference, costs, usage)

    def _evaluate(self, states: Tensor, images: Sequence[ExamImage], results: _Results) -> None:
        text = self.packer.pack([image.questions for image in images])
        with self._autocast():
            embeds = self.model.model.multi_modal_projector(states)
            logits = packed_logits(self.model, self.packer, embeds, text)
        # The last question of an image asks for its description, whose tokens are counted.
        last = text.segments == text.segments.max(1, keepdim=True).values
        words = last & (text.labels != IGNORED)
        correct_words = (logits.argmax(-1).cpu() == text.labels) & words  # [B, S]
        verdicts = right_answers(logits, text)
        for image, image_verdicts, num_words, num_correct in zip(
            images, verdicts, words.sum(1).tolist(), correct_words.sum(1).tolist(), strict=True
        ):
            kinds = [question.kind for question in image.questions[:-1]]  # not the description
            results.add_answers(kinds, image_verdicts[:-1])
            results.words_asked.append(num_words)
            results.words_right.append(num_correct)

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self._bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def on_edge(pixels: Tensor, send: Callable[[Tensor], SentT]) -> tuple[list[SentT], list[float]]:
    """The result of `send` for each image's pixels `[1, 3, H, W]`, and its time in milliseconds.

    Images are processed one at a time, as on a device. `send` must return data in main memory:
    otherwise the time would not include the work of a GPU, which is asynchronous.
    """
    sent: list[SentT] = []
    milliseconds: list[float] = []
    for image_pixels in torch.split(pixels, 1):
        start = time.perf_counter_ns()
        sent.append(send(image_pixels))
        milliseconds.append((time.perf_counter_ns() - start) / 1e6)
    return sent, milliseconds


@dataclass
class _Results:
    """Accumulates the results of an examination."""

    right: list[bool] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    words_right: list[int] = field(default_factory=list)
    words_asked: list[int] = field(default_factory=list)
    sent_bytes: list[int] = field(default_factory=list)
    fixed_bytes: list[int] = field(default_factory=list)
    edge_ms: list[float] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)

    def add_costs(self, output: PathOutput) -> None:
        self.sent_bytes += output.sent_bytes
        self.fixed_bytes += output.fixed_bytes or []
        self.edge_ms += output.edge_ms
        self.encoded += output.encoded or []

    def add_answers(self, kinds: Sequence[str], right: Sequence[bool]) -> None:
        """Add the short questions of the next image; call before adding its words."""
        self.right += right
        self.kinds += kinds
        # The number of words added so far is the number of this image.
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
