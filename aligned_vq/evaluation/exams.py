"""A bundle at each of its operating points, and the checkpoint a run is to be examined with."""

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
    """A row for every operating point of a bundle; one for a bundle of raw features.

    Raises:
        ConfigError: the bundle cannot be used, or is of another tower than the examiner's.
    """
    shown = name or folder.resolve().name
    points = read_manifest(folder).operating_points
    if not points:
        yield examiner.row(bundle_path(examiner, folder, shown), reference)
    for point in points:
        path = bundle_path(examiner, folder, f"{shown} {point.name}", {"point": point.name})
        yield examiner.row(path, reference)


def checkpoint_of(run: Path) -> Path | None:
    """The LLaVA that a training run's adapters were merged into, None if it had none."""
    folder = run / "checkpoint"
    return folder if folder.is_dir() else None
