"""A kind of measurement that measures nothing: the framework's tests only look at the framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from aligned_vq.errors import ConfigError
from aligned_vq.files.figures import save_figure
from benchmarks.harness.tables import STATISTICS, Row, markdown


@dataclass(frozen=True)
class ToySettings:
    count: int = 3
    names: tuple[str, ...] = ("one", "two")
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count must be positive, got {self.count}")


SETTINGS = ToySettings


def measure(settings: ToySettings) -> list[Row]:
    samples = list(range(settings.seed, settings.seed + settings.count))
    return [{"name": name, "ms": samples, "bytes": 7} for name in settings.names]


def table(rows: Sequence[Row]) -> str:
    lines = [(row["name"], row["bytes"], row[STATISTICS]["ms"]["median"]) for row in rows]
    return markdown(("name", "bytes", "ms"), lines)


def plot(rows: Sequence[Row], stem: Path) -> None:
    def draw(figure: Figure) -> None:
        figure.subplots().plot([row["bytes"] for row in rows])

    save_figure(draw, stem)
