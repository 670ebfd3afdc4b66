"""The student that starts as its teacher's vision tower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aligned_vq.dual_encoder.checkpoint import DualEncoder
from aligned_vq.edgevl.config import StudentRunConfig
from aligned_vq.edgevl.imitator import Imitator
from aligned_vq.edgevl.run import StudentRun
from aligned_vq.edgevl.students.choice import TEACHER_STUDENT, choose_student, new_student
from aligned_vq.edgevl.students.clip import ClipTrunk
from aligned_vq.edgevl.students.config import clip_config
from aligned_vq.errors import ConfigError
from aligned_vq.files.config_file import config_of


def test_it_starts_with_the_teachers_embeddings_and_tokens(small_clip: Path) -> None:
    teacher = DualEncoder(small_clip)
    config, prepare = choose_student(TEACHER_STUDENT, teacher)
    assert (prepare.mean, prepare.std) == (
        teacher.preparation.image_mean,
        teacher.preparation.image_std,
    )
    student = new_student(config, teacher, 0).eval()
    assert isinstance(student.trunk, ClipTrunk)
    pixels = torch.randn(2, 3, 144, 144, generator=torch.Generator().manual_seed(0))
    wanted = teacher.image_features(pixels)
    embeddings, tokens = Imitator(student, teacher.token_width, 0)(pixels)
    torch.testing.assert_close(embeddings, wanted.embeddings, atol=1e-5, rtol=0)
    assert tokens is not None
    torch.testing.assert_close(tokens, wanted.tokens, atol=1e-4, rtol=1e-4)
    # A student in training does not change its teacher.
    student.trunk.class_token.data.zero_()
    torch.testing.assert_close(teacher.image_embeddings(pixels), wanted.embeddings, atol=0, rtol=0)


def test_a_run_keeps_what_the_teacher_knows(
    small_clip: Path, rooms: Path, labels_file: Path, tmp_path: Path
) -> None:
    """Its int8 graph agrees with the teacher about colour after a few steps."""
    settings = {
        "teacher": str(small_clip),
        "student": TEACHER_STUDENT,
        "pairs": {
            "train": f"scannet:{rooms}",
            "labels": str(labels_file),
            "keep": 0.8,
            "side_px": 48,
            "validation_share": 0.2,
        },
        "distill": {"steps": 3, "batch_size": 4, "learning_rate": 1e-5, "tokens": 1.0},
        "contrast": {"steps": 2, "anchors": 4, "learning_rate": 1e-5, "calibration_pairs": 16},
        "validate_every": 3,
    }
    run = StudentRun(config_of(StudentRunConfig(), settings, "test"), tmp_path / "run")
    student = run.quantize(run.distill())
    assert run.validate(student)["rgb"] > 0.7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "siglip"}, "expected a CLIP .* got a model of type 'siglip'"),
        ({"vision_config": {"hidden_size": 48, "intermediate_size": 100}}, "of width 192 .* 100"),
        ({"vision_config": {"image_size": 100, "patch_size": 16}}, "multiple of the patch_size 16"),
    ],
)
def test_towers_that_cannot_be_students(
    small_clip: Path, changes: dict[str, Any], words: str
) -> None:
    checkpoint = json.loads((small_clip / "config.json").read_text()) | changes
    with pytest.raises(ConfigError, match=words):
        clip_config(checkpoint, 128)
