"""Ways of sending images, on the shipped reference model and a few questions."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aligned_vq.calibration.codec import (
    CalibratedCodec,
    CodecPlan,
    calibrate_codec,
    export_bundle,
    features_at,
    pixel_batches,
)
from aligned_vq.data.scenes.exam import exam_images, training_images
from aligned_vq.errors import ConfigError, CorruptPayload
from aligned_vq.evaluation.baselines.features import (
    Int8PerToken,
    RawFloat16,
    ResidualBaseline,
    feature_baselines,
)
from aligned_vq.evaluation.baselines.images import IMAGE_CODINGS, ImageBaseline, ImageCoding
from aligned_vq.evaluation.codec_path import bundle_path, calibrated_path
from aligned_vq.evaluation.examiner import Evaluator, Examination
from aligned_vq.evaluation.llava import LoadedLlava
from aligned_vq.evaluation.results import ExamRow
from aligned_vq.shipped import CHECKPOINT
from aligned_vq.split.loading import load_prefix
from aligned_vq.types import SplitPoint

QUESTIONS = 30
TOKENS, DIM = 577, 192
CUT = SplitPoint(0, "ln2")


@pytest.fixture(scope="module")
def examiner() -> Evaluator:
    return Evaluator(LoadedLlava.load(CHECKPOINT), list(exam_images(QUESTIONS)))


@pytest.fixture(scope="module")
def unsplit(examiner: Evaluator) -> Examination:
    return examiner.examine(examiner.unsplit)


@pytest.fixture(scope="module")
def calibrated(examiner: Evaluator) -> CalibratedCodec:
    pixels = pixel_batches(examiner.checkpoint, training_images(8))
    examples = features_at(load_prefix(examiner.checkpoint, CUT), pixels)
    plan = CodecPlan(CUT, codebook_sizes=(64, 32), codebook_dim=16)
    return calibrate_codec(examiner.checkpoint, plan, examples)


def test_every_question_of_every_image_is_noted(examiner: Evaluator, unsplit: Examination) -> None:
    found = unsplit.verdicts
    assert len(found.right) == QUESTIONS
    assert found.images.tolist() == sorted(found.images)
    assert [len(image.questions) - 1 for image in examiner.exam] == np.bincount(
        found.images
    ).tolist()
    assert unsplit.costs.sent_bytes.tolist() == [336 * 336 * 3] * len(examiner.exam)


def test_raw_float16_gives_the_unsplit_answers(examiner: Evaluator, unsplit: Examination) -> None:
    raw, int8 = feature_baselines(examiner, CUT)
    row = examiner.row(raw, unsplit.verdicts)
    assert (*row.answers_difference, *row.words_difference) == (0,) * 6
    assert row.mean_bytes == row.max_bytes == TOKENS * DIM * 2
    assert row.fixed_bytes is None
    assert row.usage == ()
    assert row.edge_ms > 0
    pixels = examiner.pixels([examiner.exam[0].image])
    with torch.inference_mode():
        output = int8([examiner.exam[0].image], pixels)
        expected = examiner.tower_states(pixels)
    assert output.sent_bytes == [TOKENS * (DIM + 2)]
    assert (output.states - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize("cut", ["pre", "ln1@0", "ln1@1"])
def test_raw_float16_is_close_at_every_kind_of_cut(examiner: Evaluator, cut: str) -> None:
    pixels = examiner.pixels([examiner.exam[0].image])
    path = ResidualBaseline(examiner, SplitPoint.parse(cut), RawFloat16())
    got = path([examiner.exam[0].image], pixels).states
    expected = examiner.tower_states(pixels)
    assert (got - expected).norm() <= 0.01 * expected.norm()


@pytest.mark.parametrize(
    ("coding", "token_bytes", "error"),
    [(RawFloat16(), 2 * 24, 2**-11), (Int8PerToken(), 26, 0.005)],
)
def test_streams_survive_their_bytes(
    coding: RawFloat16 | Int8PerToken, token_bytes: int, error: float
) -> None:
    stream = np.random.default_rng(0).normal(0, 30, (7, 24)).astype(np.float32)
    stream[3] = 0
    data = coding.encode(stream)
    assert len(data) == 7 * token_bytes
    back = coding.decode(data, 24)
    assert np.abs(back - stream).max() <= error * np.abs(stream).max()
    assert (back[3] == 0).all()
    assert np.isfinite(coding.decode(coding.encode(stream * 1e6), 24)).all()
    with pytest.raises(CorruptPayload, match="multiple"):
        coding.decode(data[:-1], 24)


def test_the_model_sees_the_picture_that_was_in_the_file(
    examiner: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [image.image for image in examiner.exam[:2]]
    coding = ImageCoding("JPEG", 20, 112)
    path = ImageBaseline(examiner, coding)
    files = [coding.encode(picture) for picture in pictures]
    output = path(pictures, torch.zeros(0))
    assert output.sent_bytes == [len(file) for file in files]
    small = [Image.open(BytesIO(file)) for file in files]
    assert {(image.format, image.size) for image in small} == {("JPEG", (112, 112))}
    grown = [image.resize((336, 336), Image.Resampling.BICUBIC) for image in small]
    expected = examiner.tower_states(examiner.pixels(grown))
    assert torch.equal(output.states, expected)
    # What crosses is the file and nothing but the file.
    other = files[1]
    monkeypatch.setattr(ImageCoding, "encode", lambda self, picture: other)
    swapped = path(pictures[:1], torch.zeros(0)).states
    assert torch.allclose(swapped, expected[1:], atol=1e-4)


def test_pictures_of_other_shapes_keep_their_proportions() -> None:
    wide = Image.new("RGB", (800, 400), "red")
    data = ImageCoding("WEBP", 50, 112).encode(wide)
    assert Image.open(BytesIO(data)).size == (224, 112)
    assert ImageCoding.decode(data, 336).size == (672, 336)


def test_the_curve_of_image_codings_reaches_below_1500_bytes(examiner: Evaluator) -> None:
    picture = examiner.exam[0].image
    assert len({coding.name for coding in IMAGE_CODINGS}) == len(IMAGE_CODINGS)
    for kind in ("JPEG", "WEBP"):
        sizes = [len(c.encode(picture)) for c in IMAGE_CODINGS if c.format == kind]
        assert min(sizes) < 1500 < max(sizes)


def test_a_codec_crosses_as_a_payload(
    examiner: Evaluator, unsplit: Examination, calibrated: CalibratedCodec
) -> None:
    body = calibrated.manifest.quantizer.payload_bytes(TOKENS)
    path = calibrated_path(examiner, "ranged", calibrated, {"coding": "range"})
    row = examiner.row(path, unsplit.verdicts)
    assert row.fixed_bytes == body
    assert [usage.size for usage in row.usage] == [64, 32]
    assert all(usage.covered == 1 and usage.perplexity > 1 for usage in row.usage)
    assert row.settings["coding"] == "range"
    assert row.settings["codebook_sizes"] == [64, 32]
    pictures = [examiner.exam[0].image]
    pixels = examiner.pixels(pictures)
    ranged, fixed = (
        calibrated_path(examiner, coding, calibrated, {"coding": coding})(pictures, pixels)
        for coding in ("range", "fixed")
    )
    assert fixed.sent_bytes == fixed.fixed_bytes == ranged.fixed_bytes == [body]
    assert torch.equal(ranged.states, fixed.states)
    features, residual = load_prefix(examiner.checkpoint, CUT)(pixels)
    payload = calibrated.codec.compress(features[0], residual[0], coding="range")
    assert ranged.sent_bytes == [len(payload.body)] != [body]
    assert row.max_bytes >= row.mean_bytes != body


def test_operating_points_reach_the_codec(examiner: Evaluator, calibrated: CalibratedCodec) -> None:
    pictures = [examiner.exam[0].image]
    pixels = examiner.pixels(pictures)
    whole = calibrated_path(examiner, "whole", calibrated)(pictures, pixels)
    first = calibrated_path(examiner, "first", calibrated, {"point": "fixed-1"})(pictures, pixels)
    assert whole.encoded is not None
    assert first.encoded is not None
    assert (len(whole.encoded[0].stages), len(first.encoded[0].stages)) == (2, 1)
    assert first.sent_bytes < whole.sent_bytes


def test_a_bundle_sends_and_shows_the_same(
    examiner: Evaluator, calibrated: CalibratedCodec, tmp_path: Path
) -> None:
    export_bundle(examiner.checkpoint, calibrated, tmp_path / "small")
    path = bundle_path(examiner, tmp_path / "small")
    assert path.name == "small"
    pictures = [examiner.exam[0].image]
    pixels = examiner.pixels(pictures)
    expected = calibrated_path(examiner, "same", calibrated)(pictures, pixels)
    assert torch.equal(path(pictures, pixels).states, expected.states)
    manifest = replace(calibrated.manifest, vision_digest="0" * 64)
    other = tmp_path / "other"
    export_bundle(examiner.checkpoint, calibrated._replace(manifest=manifest), other)
    with pytest.raises(ConfigError, match="checkpoint that it was made from"):
        bundle_path(examiner, other)


def test_bfloat16_changes_the_arithmetic_not_what_crosses(
    examiner: Evaluator, unsplit: Examination
) -> None:
    fast = Evaluator(examiner, examiner.exam[:2], bf16=True)
    found = fast.examine(fast.unsplit)
    asked = len(found.verdicts.right)
    assert (found.verdicts.right == unsplit.verdicts.right[:asked]).mean() >= 0.8
    assert found.costs.sent_bytes.tolist() == unsplit.costs.sent_bytes[:2].tolist()


def test_an_empty_exam_is_refused(examiner: Evaluator) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        Evaluator(examiner, [])


def test_a_row_of_the_unsplit_model_is_its_own_reference(unsplit: Examination) -> None:
    row = ExamRow.of("unsplit", {}, unsplit.verdicts, unsplit.verdicts, unsplit.costs)
    assert row.to_dict()["answers_difference"] == {"mean": 0, "low": 0, "high": 0}
