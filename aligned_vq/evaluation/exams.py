"""Evaluation of all operating points of a bundle, and the checkpoint of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.evaluation.codec_path import bundle_path
from aligned_vq.evaluation.examiner import Evaluator
from aligned_vq.evaluation.results import ExamRow, Verdicts


def bundle_rows(
    examiner: Evaluator, folder: Path, reference: Verdicts, name: str | None = None
) -> Iterator[ExamRow]:
    """A row for every operating point of a bundle, or one row for the identity quantizer.

    Args:
        examiner: the model and its questions.
        folder: the bundle.
        reference: the unsplit model's verdicts.
        name: start of the rows' names; None: that of the folder.

    Raises:
        ConfigError: the bundle is invalid, or of a vision tower other than the examiner's.
    """
    bundle_name = name or folder.resolve().name
    points = read_manifest(folder).operating_points
    # The identity quantizer has no operating points.
    if not points:
        yield examiner.row(bundle_path(examiner, folder, bundle_name), reference)
    for point in points:
        path_name = f"{bundle_name} {point.name}"
        path = bundle_path(examiner, folder, path_name, {"point": point.name})
        yield examiner.row(path, reference)


def checkpoint_of(run: Path) -> Path | None:
    """The checkpoint with a training run's merged adapters; None if the run trained none."""
    folder = run / "checkpoint"
    return folder if folder.is_dir() else None
