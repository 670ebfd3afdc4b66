"""What is compared, in which order views come, and what bits cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from aligned_vq.codec.both_halves import open_whole_bundle
from aligned_vq.data.examples import QuestionAnswer
from aligned_vq.data.views import open_views
from aligned_vq.files.config_file import config_of
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.llava.packing import IGNORED, Packer
from aligned_vq.modality.config import ModalityRunConfig
from aligned_vq.modality.distillation import PrefixDistillation
from aligned_vq.modality.lessons import Lesson, Texts, compared
from aligned_vq.modality.rate import learnable_bits
from aligned_vq.types import OperatingPoint


@pytest.fixture(scope="module")
def packer(llava_directory: Path) -> Packer:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(llava_directory, use_fast=False)
    return Packer(processor, LlavaCheckpoint(llava_directory).tower.num_selected_tokens)


def test_only_the_first_token_of_an_unknown_answer_is_compared(packer: Packer) -> None:
    known = [QuestionAnswer("what shape is it?", "a large star"), QuestionAnswer("is it?", "yes")]
    unknown = [pair._replace(answer="") for pair in known]
    mixed = [known[0], unknown[1]]
    text = Texts(packer).packed([tuple(row) for row in (known, unknown, mixed)])
    counts = compared(text).sum(1).tolist()
    whole = packer.pack([known])
    assert counts[0] == int((whole.labels != IGNORED).sum()) > 4
    assert counts[1] == 2
    assert counts[2] == int((whole.answers == 1).sum()) + 1
    # The positions are those of the last tokens of the prompts.
    prompts = [len(ids) for ids in packer.prompts([pair.text for pair in known])]
    where = compared(text)[1].nonzero().flatten().tolist()
    first_segment = int((text.segments[1] == 1).sum())
    assert where == [prompts[0] - 1, first_segment + prompts[1] - 1]


class Recorded:
    """Lessons that only note which views were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 10

    def lesson(self, indices: Sequence[int]) -> Lesson:
        self.asked += indices
        return Lesson(torch.zeros(1), None, None, None)  # type: ignore[arg-type]


def test_every_view_comes_once_before_any_comes_again() -> None:
    config = config_of(ModalityRunConfig(), {"batch_size": 4}, "test")
    lessons, teacher = Recorded(), None
    points = [OperatingPoint("only", (0,))]
    objective = PrefixDistillation(lessons, teacher, points, config)  # type: ignore[arg-type]
    for step in range(5):
        objective.batch(step)
    first, second = lessons.asked[:10], lessons.asked[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    objective.batch(3)
    assert lessons.asked[-4:] == lessons.asked[12:16]


def test_learnable_bits_fall_along_their_gradient(
    llava_directory: Path, bundle_directory: Path
) -> None:
    bundle = open_whole_bundle(bundle_directory, LlavaCheckpoint(llava_directory))
    quantizer = bundle.codec.quantizer
    assert quantizer is not None
    point = bundle.codec.spec.point()
    torch.manual_seed(0)
    pixels = torch.randn(6, 3, 56, 56)
    with torch.no_grad():
        features, _ = bundle.prefix(pixels)
    features = features.requires_grad_(True)
    weights = torch.full((6,), point.rate_weight)
    before: Any = None
    for _ in range(8):
        coded = quantizer(features, point.stages, weights, entries_learn=False)
        bits = learnable_bits(quantizer.codebooks, coded, point.stages, weights)
        assert torch.allclose(bits, coded.rate_bits)
        before = bits.detach().sum() if before is None else before
        (gradient,) = torch.autograd.grad(bits.sum(), features)
        step = 0.1 * features.detach().std() / gradient.std()
        features = (features - step * gradient).detach().requires_grad_(True)
    assert bits.sum() < 0.9 * before


def test_scenes_are_held_out_and_ask_for_no_colour() -> None:
    training, validation = open_views("reference:60", "infrared", (), 5, 0.2)
    assert 0 < len(validation) < len(training)
    assert len(training) + len(validation) == 60
    view = validation[0]
    assert view.other.modality == "infrared"
    assert view.rgb.size == (view.other.width, view.other.height)
    assert 0 < len(view.questions) <= 5
    assert all(question.answer for question in view.questions)
    again = validation[0]
    assert again.questions == view.questions
    assert again.rgb.tobytes() == view.rgb.tobytes()
