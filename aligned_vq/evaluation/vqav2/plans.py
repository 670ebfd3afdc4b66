"""The rows that can be asked: unsplit model and bundles in this process, bundles over a wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from aligned_vq.bundle_files import read_manifest
from aligned_vq.evaluation.codec_path import bundle_path
from aligned_vq.evaluation.llava import LoadedLlava
from aligned_vq.evaluation.vqav2.answerers import Client, CloudAnswerer, LocalAnswerer
from aligned_vq.evaluation.vqav2.job import RowPlan
from aligned_vq.split.checkpoint import LlavaCheckpoint
from aligned_vq.split.loading import suffix_names
from aligned_vq.types import SplitPoint

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
            self._identity,
            lambda: LocalAnswerer(self._llava, None, self._max_tokens),
        )

    def bundles(self, folders: Sequence[Path]) -> list[RowPlan]:
        """A row for every operating point of every bundle.

        Raises:
            ConfigError: a bundle cannot be used; when a row is opened, also if it is of another
                tower.
        """
        plans = []
        for folder, name, point in _points(folders):
            identity = self._identity | _bundle_identity(folder, point)
            plans.append(RowPlan(name, identity, self._opener(folder, point)))
        return plans

    @cached_property
    def _llava(self) -> LoadedLlava:
        return LoadedLlava(self.checkpoint.source, device=self._device, dtype=self._dtype)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        names = suffix_names(self.checkpoint, SplitPoint(0, "pre"))
        return {
            "checkpoint": self.checkpoint.model_id,
            "revision": self.checkpoint.revision,
            "tower": self.checkpoint.vision_digest(names),
            "dtype": str(self._dtype).removeprefix("torch."),
        }

    def _opener(self, folder: Path, point: str | None) -> Callable[[], LocalAnswerer]:
        def opened() -> LocalAnswerer:
            how = {} if point is None else {"point": point}
            path = bundle_path(self._llava, folder, how=how)
            return LocalAnswerer(self._llava, path, self._max_tokens)

        return opened


def cloud_plans(
    folders: Sequence[Path], connect: Callable[[Path], Client], max_tokens: int
) -> list[RowPlan]:
    """A row for every operating point of every bundle, asked of a cloud that serves it.

    `connect` gives the edge client of a bundle; it is called when a row has something to ask.
    """

    def opener(folder: Path, point: str | None) -> Callable[[], CloudAnswerer]:
        return lambda: CloudAnswerer(connect(folder), point, max_tokens)

    return [
        RowPlan(
            f"{name}, cloud",
            {**_bundle_identity(folder, point), "cloud": True},
            opener(folder, point),
        )
        for folder, name, point in _points(folders)
    ]


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
