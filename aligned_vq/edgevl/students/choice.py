"""Students by the name that a run's configuration gives: a preset, or the teacher's own tower."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from aligned_vq.dual_encoder.checkpoint import DualEncoder
from aligned_vq.edgevl.pool import StudentInput
from aligned_vq.edgevl.students.build import Student, build_student
from aligned_vq.edgevl.students.clip import ClipTrunk
from aligned_vq.edgevl.students.config import (
    ARCHITECTURES,
    PRESETS,
    StudentConfig,
    clip_config,
    preset,
)
from aligned_vq.errors import ConfigError

TEACHER_STUDENT = "teacher-clip"
STUDENTS = (
    TEACHER_STUDENT,
    *(f"{size}-{architecture}" for size in PRESETS for architecture in ARCHITECTURES),
)


class ChosenStudent(NamedTuple):
    """Dimensions of a student, and how images become its input."""

    config: StudentConfig
    prepare: StudentInput


def choose_student(name: str, teacher: DualEncoder) -> ChosenStudent:
    """A student for a teacher.

    Args:
        name: size and architecture of a preset, such as reference-vit; or `TEACHER_STUDENT`.
        teacher: decides on the width of embeddings.

    Raises:
        ConfigError: there is no such preset, or the teacher's tower cannot be a student.
    """
    if name == TEACHER_STUDENT:
        config = clip_config(teacher.config, teacher.width)
        settings = teacher.preparation
        return ChosenStudent(
            config, StudentInput(config.image_size, settings.image_mean, settings.image_std)
        )
    if name not in STUDENTS:
        raise ConfigError(f"expected a student of {', '.join(STUDENTS)}, got {name!r}")
    size, _, architecture = name.partition("-")
    config = replace(preset(size, architecture), embedding_width=teacher.width)
    return ChosenStudent(config, StudentInput(config.image_size))


def new_student(config: StudentConfig, teacher: DualEncoder, seed: int) -> Student:
    """A student in training mode: with random weights, or equal to the teacher if its tower."""
    student = build_student(config, seed)
    if isinstance(student.trunk, ClipTrunk):
        image_half = teacher.image_model
        student.trunk.inherit(image_half.vision_model)
        with torch.no_grad():
            student.head.weight.copy_(image_half.visual_projection.weight)
            student.head.bias.zero_()  # CLIP has none
    return student
