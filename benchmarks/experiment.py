"""What an experiment is told, in YAML, and the statistics of what it measures.

seed: 0
parts:                     # measured one after the other; a part is one comparison, in one run
  bytes:                   # of its table and plot; the kind's name unless `kind` says another
    tls: [false, true]     # any field of the kind's settings
  bytes-long:
    kind: bytes
    characters: 400
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, cast

from jsonargparse import ArgumentError, ArgumentParser

from aligned_vq.errors import ConfigError
from aligned_vq.files.yaml_file import mapping, read_yaml
from benchmarks.harness.tables import Row

KINDS = {
    "bytes": "benchmarks.kinds.socket_bytes",
    "cloud_cost": "benchmarks.kinds.cloud_cost",
    "edge_cost": "benchmarks.kinds.edge_cost",
    "end_to_end": "benchmarks.end_to_end",
    "leakage": "benchmarks.leakage.kind",
}
"""Modules by kind, imported only where an experiment names them."""
_TOP_KEYS = ("seed", "parts")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Kind(Protocol):
    """A module that measures one kind of thing and shows what it found."""

    SETTINGS: type[Any]
    """A frozen dataclass with a default for every field. If it has a `seed`, the experiment's seed
    is its default."""

    def measure(self, settings: Any) -> list[Row]:
        """Everything that is compared, in one run."""
        ...

    def table(self, rows: Sequence[Row]) -> str:
        """Rows with their statistics, as Markdown."""
        ...

    def plot(self, rows: Sequence[Row], stem: Path) -> object:
        """Rows with their statistics, as `stem`.png and `stem`.svg."""
        ...


@dataclass(frozen=True)
class Part:
    """One comparison of an experiment.

    Args:
        name: of its table and plot.
        kind: a key of `KINDS`.
        settings: of that kind.
    """

    name: str
    kind: str
    settings: Any


@dataclass(frozen=True)
class Experiment:
    """Parts, and the seed of what is random in them."""

    parts: tuple[Part, ...]
    seed: int = 0


def kind_of(name: str) -> Kind:
    """The module of a kind, imported now; ConfigError if there is none."""
    if name not in KINDS:
        raise ConfigError(f"expected a kind, one of {', '.join(KINDS)}, got {name!r}")
    return cast("Kind", importlib.import_module(KINDS[name]))


def read_experiment(path: Path) -> Experiment:
    """An experiment from its YAML file.

    Raises:
        ConfigError: the file cannot be read, or a key or value is none of an experiment's; the
            message names it.
    """
    return read_yaml(path, parse_experiment)


def parse_experiment(loaded: Any) -> Experiment:
    """An experiment from what its YAML says; raises ConfigError as `read_experiment`."""
    top = mapping(loaded, "an experiment", _TOP_KEYS)
    seed = top.get("seed", 0)
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"seed must be a whole number of 0 or more, got {seed!r}")
    parts = mapping(top.get("parts") or {}, "parts")
    if not parts:
        raise ConfigError("parts must name at least one part, got none")
    return Experiment(tuple(_part(str(name), told, seed) for name, told in parts.items()), seed)


def _part(name: str, told: Any, seed: int) -> Part:
    where = f"parts.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a part's name becomes a file's: expected a-z, 0-9 and ._-, got {name!r}"
        )
    settings = dict(mapping(told or {}, where))
    kind = str(settings.pop("kind", name))
    try:
        settings_type = kind_of(kind).SETTINGS
    except ConfigError as error:
        raise ConfigError(f"{where}.kind: {error}") from error
    if "seed" in {field.name for field in fields(settings_type)}:
        settings.setdefault("seed", seed)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=settings_type, default=settings_type())
    try:
        found = parser.instantiate(parser.parse_object({"part": settings})).part
    except (ArgumentError, ConfigError, TypeError, ValueError) as error:
        words = " ".join(str(error).split()).removeprefix("Group 'part' ")
        words = words.removeprefix("Parser key ").replace('"part.', '"', 1)
        raise ConfigError(f"{where}: {words}") from error
    return Part(name, kind, found)
