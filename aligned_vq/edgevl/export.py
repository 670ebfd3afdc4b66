"""Writes a trained student as a classifier bundle for devices."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from aligned_vq.classifier.files import ClassifierContent, write_classifier
from aligned_vq.classifier.manifest import ClassifierManifest, LabelSet, ModalityInput
from aligned_vq.dual_encoder.prompts import prompt
from aligned_vq.edgevl.pool import embed
from aligned_vq.edgevl.quantization.student import QuantizedStudent
from aligned_vq.edgevl.run import StudentRun
from aligned_vq.edgevl.scoring import fit_scale
from aligned_vq.edgevl.text_graph import text_graph, tokenizer_file
from aligned_vq.errors import ConfigError
from aligned_vq.images.modality import CameraModality


def export_classifier(
    run: StudentRun,
    student: QuantizedStudent,
    out: Path,
    label_sets: Mapping[str, Sequence[str]],
    with_text: bool = True,
) -> ClassifierManifest:
    """Write the classifier bundle of a finished run to `out`.

    Args:
        run: whose teacher embeds the labels, and whose validation part fixes the temperature.
        student: what `run.quantize` gave.
        out: new, or an older classifier bundle.
        label_sets: labels by the name of their set, the default first.
        with_text: include the text encoder, so that devices take labels of their users'.

    Raises:
        ConfigError: labels are unusable, or the folder holds other files.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    if run.modality not in ("depth", "infrared"):
        raise ConfigError(
            f"expected a student of depth or infrared beside rgb, got {run.modality}; devices read "
            "no other modality"
        )
    other: CameraModality = "depth" if run.modality == "depth" else "infrared"
    teacher, template = run.teacher, run.config.pairs.template
    embeddings = {
        name: teacher.text_embeddings([prompt(label, template) for label in labels]).cpu().numpy()
        for name, labels in label_sets.items()
    }
    manifest = ClassifierManifest(
        name=f"{run.config.student}, taught by {teacher.model_id}",
        embedding_dim=teacher.width,
        template=template,
        context_tokens=teacher.context_tokens,
        side_px=run.prepare.side_px,
        image_mean=run.prepare.mean,
        image_std=run.prepare.std,
        modalities=(
            ModalityInput("rgb", _scale(run, student, "rgb"), None, run.rgb_statistics()),
            ModalityInput(other, _scale(run, student, "other"), run.config.pairs.range()),
        ),
        label_sets=tuple(LabelSet(name, tuple(labels)) for name, labels in label_sets.items()),
        image_digest="",
        labels_digest="",
    )
    with tempfile.TemporaryDirectory() as folder:
        student.export_onnx(Path(folder, "image.onnx"))
        image_graph = Path(folder, "image.onnx").read_bytes()
    content = ClassifierContent(
        manifest,
        image_graph,
        {name: np.ascontiguousarray(rows, np.float32) for name, rows in embeddings.items()},
        text_graph(teacher) if with_text else None,
        tokenizer_file(teacher) if with_text else None,
    )
    return write_classifier(out, content)


def _scale(run: StudentRun, student: QuantizedStudent, side: str) -> float:
    """A modality's inverse temperature, by the teacher's probabilities of the validation part."""
    images = embed(student, run.validation, run.prepare, side)
    return fit_scale(images @ run.texts.T, run.teacher_probabilities())
