"""Answers of a model in this process, and pictures made square."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from aligned_vq.cli import main
from aligned_vq.commands.vqav2 import LLAVA_SUFFIX
from aligned_vq.errors import InvalidInput
from aligned_vq.evaluation.codec_path import bundle_path
from aligned_vq.evaluation.llava import LoadedLlava
from aligned_vq.evaluation.vqav2.answerers import QUESTIONS_AT_ONCE, LocalAnswerer, padded
from aligned_vq.evaluation.vqav2.files import VqaSplit
from aligned_vq.evaluation.vqav2.world import SPLIT
from aligned_vq.images.preprocess import preprocess
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.shipped import CHECKPOINT
from tests.evaluation.vqav2.folder import arguments, evaluated

MAX_TOKENS = 6


@pytest.fixture(scope="module")
def llava(llava_directory: Path) -> LoadedLlava:
    return LoadedLlava.load(llava_directory)


@pytest.fixture(scope="module")
def split(world: Path, tmp_path_factory: pytest.TempPathFactory) -> VqaSplit:
    return VqaSplit(world, SPLIT, tmp_path_factory.mktemp("index"))


def generated(llava: LoadedLlava, processor: Any, picture: Image.Image, question: str) -> str:
    """transformers' own answer, the question asked alone."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    with torch.inference_mode():
        tokens = llava.model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
    text: str = processor.tokenizer.decode(
        tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return text.strip()


def test_the_unsplit_model_answers_as_transformers_does(
    llava: LoadedLlava, split: VqaSplit
) -> None:
    answerer = LocalAnswerer(llava, None, MAX_TOKENS)
    processor = AutoProcessor.from_pretrained(llava.checkpoint.source, use_fast=False)
    seen: set[str] = set()
    for index in range(2):
        picture = split.image(index)
        questions = [question.text for question in split.questions(index)]
        said = answerer(picture, questions)
        assert said.payload_bytes is None
        assert said.answers == [generated(llava, processor, picture, text) for text in questions]
        seen |= set(said.answers)
    assert len(seen) > 2


def test_many_questions_are_answered_as_few_are(
    llava: LoadedLlava, split: VqaSplit, bundle_directory: Path
) -> None:
    path = bundle_path(llava, bundle_directory, compress_options={"point": "adaptive"})
    answerer = LocalAnswerer(llava, path, MAX_TOKENS)
    questions = [question.text for index in (0, 1) for question in split.questions(index)]
    assert len(questions) > QUESTIONS_AT_ONCE
    together = answerer(split.image(0), questions)
    assert together.payload_bytes is not None
    assert together.payload_bytes > 0
    assert together.answers == [
        answerer(split.image(0), [question]).answers[0] for question in questions
    ]


def test_a_question_never_holds_a_special_token(llava: LoadedLlava, split: VqaSplit) -> None:
    answerer = LocalAnswerer(llava, None, MAX_TOKENS)
    with pytest.raises(InvalidInput, match="special token"):
        answerer(split.image(0), ["What is <image> this?"])


@pytest.mark.parametrize("size", [(9, 4), (4, 9), (7, 4), (5, 5), (1, 1)])
def test_padding_is_that_of_a_processor_that_pads(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    crops = ProcessorSettings(size=8, crop_size=(8, 8))
    pads = replace(crops, do_pad=True)
    square = padded(picture, crops.image_mean)
    assert square.size == (max(size),) * 2
    assert np.array_equal(preprocess(square, crops), preprocess(picture, pads))
    assert np.array_equal(preprocess(square, pads), preprocess(picture, pads))


def test_suffix_and_tokens_are_llavas_unless_the_model_is_the_reference(
    world: Path, llava_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = evaluated(world, tmp_path / "tiny", llava_directory, "--bundles", "--questions=1")
    assert figures["suffix"] == LLAVA_SUFFIX
    figures = evaluated(world, tmp_path / "own", CHECKPOINT, "--bundles", "--questions=4")
    assert figures["suffix"] == ""
    assert figures["rows"][0]["accuracies"]["overall"] > 50
    capsys.readouterr()
    as_json = arguments(world, tmp_path / "own", CHECKPOINT, "--bundles", "--questions=4", "--json")
    assert main(as_json) == 0
    assert capsys.readouterr().out.count('"measured": false') == 3
