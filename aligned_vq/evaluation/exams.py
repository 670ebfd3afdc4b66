"""What is examined: the whole model, and a bundle at each of its operating points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from aligned_vq.bundle import read_manifest
from aligned_vq.evaluation.codec_path import bundle_path
from aligned_vq.evaluation.examiner import Examiner, PathOutput
from aligned_vq.evaluation.results import Row, Verdicts
from aligned_vq.types import QuantizerConfig


class UnsplitPath:
    """The model in one piece, as a path with a name."""

    name = "unsplit"
    settings: Mapping[str, Any] = {}
    quantizer: QuantizerConfig | None = None

    def __init__(self, examiner: Examiner) -> None:
        self._examiner = examiner

    def __call__(self, pictures: Sequence[Image.Image], pixels: Tensor) -> PathOutput:
        """See `FeaturePath`."""
        return self._examiner.unsplit(pictures, pixels)


def bundle_rows(
    examiner: Examiner, folder: Path, reference: Verdicts, name: str | None = None
) -> Iterator[Row]:
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
