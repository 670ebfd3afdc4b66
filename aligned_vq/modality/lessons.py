"""What the student learns from: its input, a text, and what the teacher made of the colour image.

The teacher is the frozen model on the colour image that is *not* coded. A coded one would add the
codec's errors of that image and of one operating point, which the student cannot know; and one
target for all operating points can be computed once and stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from aligned_vq.data.examples import QuestionAnswer
from aligned_vq.data.views import ViewSource
from aligned_vq.images.preparation import Preparation
from aligned_vq.images.preprocess import View, normalize, preprocess_batch
from aligned_vq.llava.packing import IGNORED, PackedText, Packer
from aligned_vq.precision import autocast
from aligned_vq.training.model import SplitModel

Questions = tuple[QuestionAnswer, ...]
"""About one image; an empty answer is not known."""


class Taught(NamedTuple):
    """The teacher's view of some colour images."""

    hidden: Tensor
    """`[B, N', D]`: the projector's input."""
    logits: Tensor
    """`[T, V]`: of the compared tokens of all texts, image by image."""


class DecodedViews(NamedTuple):
    """Some views, prepared for teacher and student."""

    rgb: Tensor
    """`[B, 3, H, W]` float32: the colour images, normalised."""
    greys: NDArray[np.uint8]
    """`[B, H, W]`: the other images."""
    questions: list[Questions]


class Lesson(NamedTuple):
    """Some views of a step."""

    pixels: Tensor
    """`[B, 3, H, W]` float32: the other images, as the student sees them."""
    text: PackedText
    rgb: Tensor | None
    """`[B, 3, H, W]` float32: the colour images, where `taught` is yet to be computed from them."""
    taught: Taught | None


class Lessons(Protocol):
    """Lessons about views by index."""

    def __len__(self) -> int:
        """Number of views."""

    def lesson(self, indices: Sequence[int]) -> Lesson:
        """The lesson about some views."""


class Texts:
    """The texts behind images, and the tokens whose distributions are compared.

    These are the tokens of the answers in the data: as text that distributions follow, not as
    labels. Of a question without an answer, the first token of an answer is compared.
    """

    def __init__(self, packer: Packer) -> None:
        self._packer = packer

    def packed(self, questions: Sequence[Questions]) -> PackedText:
        """The questions about every image; labels mark the compared tokens."""
        text = self._packer.pack(questions)
        # By row and number of the answer; 0 stands for tokens outside of answers.
        is_known = torch.ones(len(questions), 1 + max(map(len, questions)), dtype=torch.bool)
        for row, about_image in enumerate(questions):
            for number, question in enumerate(about_image, 1):
                is_known[row, number] = bool(question.answer)
        is_first = text.answers != functional.pad(text.answers[:, :-1], (1, 0))
        kept = is_known.gather(1, text.answers) | is_first
        return text._replace(labels=text.labels.where(kept, torch.tensor(IGNORED)))


def compared(text: PackedText) -> Tensor:
    """Which tokens of a text are compared: bool `[B, S]`."""
    return text.labels != IGNORED


@dataclass(frozen=True)
class Teacher:
    """The frozen model on colour images.

    Args:
        model: whose prefix, suffix and language model are used, and not its codec.
        bfloat16: compute under autocast, where the processor has bfloat16 arithmetic.
    """

    model: SplitModel
    bfloat16: bool

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def __call__(self, rgb: Tensor, text: PackedText) -> Taught:
        """What it makes of colour images `[B, 3, H, W]`, float32 on the model's device."""
        device = self.device
        with autocast(device.type, self.bfloat16):
            hidden = self.model.suffix(*self.model.prefix(rgb.to(device)))
            logits = self.model.logits(hidden, text)
        return Taught(hidden.float(), logits[compared(text).to(device)].float())


@dataclass(frozen=True)
class DecodedLessons:
    """Lessons from image files, or rendered scenes, which are decoded each time.

    Args:
        source: of the views.
        texts: packs the questions.
        preparation: of the other images; its processor is that of the colour images, too.
    """

    source: ViewSource
    texts: Texts
    preparation: Preparation

    def __len__(self) -> int:
        """Number of views."""
        return len(self.source)

    def lesson(self, indices: Sequence[int]) -> Lesson:
        """See `Lessons`; without what the teacher makes of it."""
        decoded = self.decoded(indices)
        pixels = self.student_pixels(decoded.greys)
        return Lesson(pixels, self.texts.packed(decoded.questions), decoded.rgb, None)

    def decoded(self, indices: Sequence[int]) -> DecodedViews:
        """Some views, decoded and prepared."""
        views = [self.source[index] for index in indices]
        rgb = preprocess_batch((view.rgb for view in views), self.preparation.processor)
        # The three channels of a grey view are equal.
        greys = np.stack([self.preparation.view(view.other).pixels[:, :, 0] for view in views])
        return DecodedViews(torch.from_numpy(rgb), greys, [view.questions for view in views])

    def student_pixels(self, greys: NDArray[np.uint8]) -> Tensor:
        """The student's input `[B, 3, H, W]` float32 of greys `[B, H, W]`."""
        views = (View(np.repeat(grey[:, :, None], 3, 2)) for grey in greys)
        processor = self.preparation.processor
        return torch.from_numpy(np.stack([normalize(view, processor) for view in views]))
