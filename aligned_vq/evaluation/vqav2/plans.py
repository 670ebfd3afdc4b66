"""The rows of a table: the unsplit model and bundles in this process, bundles of a service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.evaluation.codec_path import bundle_path
from aligned_vq.evaluation.llava import LoadedLlava
from aligned_vq.evaluation.vqav2.answer_log import NAME
from aligned_vq.evaluation.vqav2.answerers import CloudAnswerer, LocalAnswerer, QuestionClient
from aligned_vq.evaluation.vqav2.job import RowPlan
from aligned_vq.llava.checkpoint import LlavaCheckpoint

UNSPLIT = "unsplit"


class LocalModel:
    """Rows of a model in this process, which is loaded when the first question is asked.

    Args:
        checkpoint: directory or hub id.
        device: on which the model runs.
        dtype: of the model's weights; codecs and halves of the tower are float32.
        max_tokens: maximum tokens of an answer.

    Raises:
        ConfigError: the checkpoint cannot be used.
    """

    def __init__(
        self, checkpoint: str, device: torch.device, dtype: torch.dtype, max_tokens: int
    ) -> None:
        self.checkpoint = LlavaCheckpoint(checkpoint)
        self._device = device
        self._dtype = dtype
        self._max_tokens = max_tokens

    def unsplit(self) -> RowPlan:
        """The row of the unsplit model."""
        return RowPlan(
            UNSPLIT,
            lambda: self._identity,
            lambda: LocalAnswerer(self._llava, None, self._max_tokens),
        )

    def bundles(self, folders: Sequence[Path]) -> list[RowPlan]:
        """A row for every operating point of every bundle.

        Raises:
            ConfigError: a bundle is invalid; on opening of a row, also if the bundle is of another
                tower.
        """
        return [self._bundle_row(*row) for row in _bundle_rows(folders)]

    @cached_property
    def _llava(self) -> LoadedLlava:
        return LoadedLlava.load(self.checkpoint.source, device=self._device, dtype=self._dtype)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {
            NAME: self.checkpoint.model_id,
            "files": self.checkpoint.digest(),
            "dtype": str(self._dtype).removeprefix("torch."),
        }

    def _bundle_row(self, folder: Path, name: str, point: str | None) -> RowPlan:
        def open_path() -> LocalAnswerer:
            compress_options = {} if point is None else {"point": point}
            path = bundle_path(self._llava, folder, compress_options=compress_options)
            return LocalAnswerer(self._llava, path, self._max_tokens)

        return RowPlan(name, lambda: self._identity | _bundle_identity(folder, point), open_path)


def cloud_plans(
    folders: Sequence[Path], target: str, connect: Callable[[Path], QuestionClient], max_tokens: int
) -> list[RowPlan]:
    """A row for every operating point of every bundle, answered by a cloud service.

    The address stands for the service's model in a row's identity, because the model is unknown.

    Args:
        folders: the bundles.
        target: host:port of the service.
        connect: opens the edge client of a bundle; called when a row's first question is asked.
        max_tokens: maximum tokens of an answer.
    """

    def plan(folder: Path, name: str, point: str | None) -> RowPlan:
        return RowPlan(
            f"{name}, cloud",
            lambda: {**_bundle_identity(folder, point), "cloud": target},
            lambda: CloudAnswerer(connect(folder), point, max_tokens),
        )

    return [plan(*row) for row in _bundle_rows(folders)]


def _bundle_rows(folders: Sequence[Path]) -> list[tuple[Path, str, str | None]]:
    """Folder, unique name of the row, and operating point, for every point of every bundle."""
    # Resolved, because the name of `.` is empty.
    names = [folder.resolve().name for folder in folders]
    occurrences = Counter(names)
    rows: list[tuple[Path, str, str | None]] = []
    for folder, name in zip(folders, names, strict=True):
        # Bundles of one name are distinguished by the folders that they are in.
        is_unique = occurrences[name] == 1
        bundle = name if is_unique else f"{folder.resolve().parent.name}/{name}"
        points = read_manifest(folder).operating_points
        rows += [(folder, f"{bundle} {point.name}", point.name) for point in points]
        if not points:
            rows.append((folder, bundle, None))
    return rows


def _bundle_identity(folder: Path, point: str | None) -> dict[str, Any]:
    return {"bundle": read_manifest(folder).digest().hex(), "point": point}
