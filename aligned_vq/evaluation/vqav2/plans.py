"""The rows that can be asked: unsplit model and bundles in this process, bundles over a wire."""

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


class ModelHere:
    """Rows that a model in this process answers; it is loaded when the first of them has to be.

    Args:
        checkpoint: directory or hub id.
        device: where it runs.
        dtype: of its weights; codecs and halves of the tower stay in float32.
        max_tokens: of an answer.

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
        """The row of the model in one piece."""
        return RowPlan(
            UNSPLIT,
            lambda: self._identity,
            lambda: LocalAnswerer(self._llava, None, self._max_tokens),
        )

    def bundles(self, folders: Sequence[Path]) -> list[RowPlan]:
        """A row for every operating point of every bundle.

        Raises:
            ConfigError: a bundle cannot be used; when a row is opened, also if it is of another
                tower.
        """
        return [self._of_bundle(*found) for found in _points(folders)]

    @cached_property
    def _llava(self) -> LoadedLlava:
        return LoadedLlava(self.checkpoint.source, device=self._device, dtype=self._dtype)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {
            NAME: self.checkpoint.model_id,
            "files": self.checkpoint.digest(),
            "dtype": str(self._dtype).removeprefix("torch."),
        }

    def _of_bundle(self, folder: Path, name: str, point: str | None) -> RowPlan:
        def opened() -> LocalAnswerer:
            how = {} if point is None else {"point": point}
            path = bundle_path(self._llava, folder, how=how)
            return LocalAnswerer(self._llava, path, self._max_tokens)

        return RowPlan(name, lambda: self._identity | _bundle_identity(folder, point), opened)


def cloud_plans(
    folders: Sequence[Path], target: str, connect: Callable[[Path], QuestionClient], max_tokens: int
) -> list[RowPlan]:
    """A row for every operating point of every bundle, asked of a cloud that serves it.

    The cloud's address stands for its model, of which nothing is known here. `connect` gives the
    edge client of a bundle; it is called when a row has something to ask.
    """

    def plan(folder: Path, name: str, point: str | None) -> RowPlan:
        return RowPlan(
            f"{name}, cloud",
            lambda: {**_bundle_identity(folder, point), "cloud": target},
            lambda: CloudAnswerer(connect(folder), point, max_tokens),
        )

    return [plan(*found) for found in _points(folders)]


def _points(folders: Sequence[Path]) -> list[tuple[Path, str, str | None]]:
    """Every bundle with every operating point, and a name that no other row has."""
    names = [folder.resolve().name for folder in folders]
    often = Counter(names)
    found: list[tuple[Path, str, str | None]] = []
    for folder, name in zip(folders, names, strict=True):
        whole = folder.resolve()
        shown = name if often[name] == 1 else f"{whole.parent.name}/{name}"
        points = read_manifest(folder).operating_points
        found += [(folder, f"{shown} {point.name}", point.name) for point in points]
        if not points:
            found.append((folder, shown, None))
    return found


def _bundle_identity(folder: Path, point: str | None) -> dict[str, Any]:
    return {"bundle": read_manifest(folder).digest().hex(), "point": point}
