"""What is shipped: the reference checkpoint and its bundle, by the same code as any other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from aligned_vq.calibration.codec import pixel_batches
from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.data.scenes.exam import (
    exam_conversations,
    exam_images,
    majority_answers,
)
from aligned_vq.data.scenes.questions import DESCRIBE
from aligned_vq.evaluation.codec_path import bundle_path
from aligned_vq.evaluation.examiner import Evaluator
from aligned_vq.evaluation.llava import LoadedLlava
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.split.loading import suffix_names
from aligned_vq.types import LinkKind, SplitPoint
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient
from edge_client.encoder import EdgeEncoder
from tests.split.test_exactness import through_the_split

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"


@pytest.fixture(scope="module")
def examiner() -> Evaluator:
    return Evaluator(LoadedLlava.load(CHECKPOINT), list(exam_images(200)))


@pytest.fixture(scope="module")
def pixels(examiner: Evaluator) -> Tensor:
    return examiner.pixels([image.image for image in examiner.exam[:3]])


@pytest.fixture(scope="module")
def tower_states(examiner: Evaluator, pixels: Tensor) -> Tensor:
    """What the unsplit tower makes of the pixels."""
    with torch.inference_mode():
        return examiner.tower_states(pixels)


@pytest.fixture(scope="module")
def served(reference_cloud: CloudProcess) -> Iterator[EdgeClient]:
    with EdgeClient(reference_cloud.target, BUNDLE) as client:
        yield client


def test_the_checkpoint_is_small_and_in_float16() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30e6
    checkpoint = LlavaCheckpoint(CHECKPOINT)
    tensor = checkpoint.vision_tensors(["pre_layrnorm.weight"])["pre_layrnorm.weight"]
    assert tensor.dtype == torch.float16


def test_the_bundle_belongs_to_the_checkpoint() -> None:
    manifest = read_manifest(BUNDLE)
    checkpoint = LlavaCheckpoint(CHECKPOINT)
    assert manifest.tower == checkpoint.tower
    assert manifest.vision_digest == checkpoint.vision_digest(
        suffix_names(checkpoint, manifest.split)
    )


def test_a_payload_of_577_tokens_at_12_bits_is_866_bytes() -> None:
    encoder = EdgeEncoder(BUNDLE)
    picture = Image.open(SCENE).convert("RGB")
    assert encoder.manifest.features.num_tokens == 577
    assert encoder.manifest.quantizer.bits_per_index(0) == 12
    encoded = encoder.encode(picture, quality="fixed", coding="fixed")
    assert len(encoded.payload.body) == 866


def test_the_shipped_operating_points_differ_in_bytes() -> None:
    encoder = EdgeEncoder(BUNDLE)
    picture = Image.open(SCENE).convert("RGB")
    sizes = [
        len(encoder.encode(picture, quality=quality).payload.body)
        for quality in ("low", "medium", "high", "fixed")
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4
    assert max(sizes) <= 866


def splits() -> list[SplitPoint]:
    blocks = LlavaCheckpoint(CHECKPOINT).tower.last_block
    cuts = [SplitPoint(block, norm) for block in range(blocks) for norm in ("ln1", "ln2")]
    return [SplitPoint(0, "pre"), *cuts]


@pytest.mark.parametrize("split", splits(), ids=str)
def test_every_cut_is_exact_without_quantization(
    split: SplitPoint, examiner: Evaluator, pixels: Tensor, tower_states: Tensor
) -> None:
    tower = examiner.checkpoint.tower
    state = {k: v.float() for k, v in examiner.model.model.vision_tower.state_dict().items()}
    kind: LinkKind = "identity" if split.norm == "pre" else "statistics"
    got = through_the_split(tower, state, split, kind, pixels)
    assert (got - tower_states).abs().max() <= 1e-4


def test_it_answers_far_above_the_majority(examiner: Evaluator) -> None:
    verdicts = examiner.examine(examiner.unsplit).verdicts
    assert verdicts.answers >= 0.85
    assert verdicts.answers > majority_answers(examiner.exam)["short"] + 0.2


def test_verdicts_of_the_examination_are_those_of_real_answers(served: EdgeClient) -> None:
    """One pass over all questions of a picture against asking each over the wire."""
    exam = list(exam_images(24))
    examiner = Evaluator(LoadedLlava.load(CHECKPOINT), exam)
    verdicts = examiner.examine(bundle_path(examiner, BUNDLE)).verdicts
    asked = [(image, question) for image in exam for question in image.questions[:-1]]
    real = [served.ask(image.image, item.text) == item.answer for image, item in asked]
    assert real == verdicts.right.tolist()


def test_the_demos_questions_are_answered_right(served: EdgeClient) -> None:
    for item in json.loads(SCENE.with_suffix(".json").read_text()):
        assert served.ask(SCENE, item["question"]) == item["answer"]


def test_the_demos_picture_can_be_talked_about(served: EdgeClient) -> None:
    """As the page sends it: every question with all before it, and the service's own answers."""
    talk = (
        ("Describe the picture.", None),
        ("What colour is the star?", "purple"),
        ("How many objects are there?", "3"),
        ("Is there a square?", "no"),
        ("What shape is the purple thing?", "star"),
    )
    history: list[tuple[str, str]] = []
    for question, expected in talk:
        answer = str(served.ask(SCENE, question, history, max_tokens=96))
        assert expected in (None, answer), question
        history.append((question, answer))


def test_later_turns_are_answered_as_alone(served: EdgeClient) -> None:
    alone, said = [], []
    for image in exam_conversations(24, 5, "validation"):
        history: list[tuple[str, str]] = []
        for question in image.questions:
            answer = str(served.ask(image.image, question.text, history, max_tokens=96))
            if history and question.kind != DESCRIBE:
                said.append(answer == question.answer)
                alone.append(str(served.ask(image.image, question.text)) == question.answer)
            history.append((question.text, answer))
    assert len(said) > 60
    assert sum(said) >= sum(alone) - 5


def test_the_edges_preprocessing_is_the_checkpoints(examiner: Evaluator) -> None:
    from aligned_vq.images.preprocess import preprocess

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8))
    theirs = next(pixel_batches(examiner.checkpoint, [picture]))[0].numpy()
    ours = preprocess(picture, examiner.checkpoint.processor())
    assert np.abs(ours - theirs).max() <= 1 / 255
