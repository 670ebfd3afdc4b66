"""Experiments: YAML files that name kinds of measurement and their settings.

seed: 0
parts:                     # measured one after the other; each has its own table and plot
  bytes:                   # name of the part, and its kind unless `kind` names another
    links: [plain, tls]    # any field of the kind's settings
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
"""Modules by kind, imported only when an experiment names the kind."""
_TOP_KEYS = ("seed", "parts")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Kind(Protocol):
    """The interface of a module that implements one kind of measurement."""

    SETTINGS: type[Any]
    """A frozen dataclass with a default for every field. A field `seed` defaults to the seed of the
    experiment."""

    def measure(self, settings: Any) -> list[Row]:
        """Rows of everything that is compared, measured in one run."""
        ...

    def table(self, rows: Sequence[Row]) -> str:
        """A Markdown table of rows with statistics."""
        ...

    def plot(self, rows: Sequence[Row], stem: Path) -> object:
        """Draw rows with statistics to `stem`.png."""
        ...


@dataclass(frozen=True)
class Part:
    """One comparison of an experiment.

    Args:
        name: names the files of its table and plot.
        kind: a key of `KINDS`.
        settings: an instance of the kind's `SETTINGS`.
    """

    name: str
    kind: str
    settings: Any


@dataclass(frozen=True)
class Experiment:
    """Parts in the order they are measured, and the seed of every random choice in them."""

    parts: tuple[Part, ...]
    seed: int = 0


def kind_of(name: str) -> Kind:
    """Import and return the module of a kind; ConfigError for an unknown kind."""
    if name not in KINDS:
        raise ConfigError(f"expected a kind, one of {', '.join(KINDS)}, got {name!r}")
    return cast("Kind", importlib.import_module(KINDS[name]))


def read_experiment(path: Path) -> Experiment:
    """Read an experiment from its YAML file.

    Raises:
        ConfigError: the file cannot be read, or a key or value is invalid; the message names it.
    """
    return read_yaml(path, parse_experiment)


def parse_experiment(document: Any) -> Experiment:
    """Build an experiment from a parsed YAML document; raises ConfigError as `read_experiment`."""
    top = mapping(document, "an experiment", _TOP_KEYS)
    seed = top.get("seed", 0)
    # Not `isinstance`: `yes` in YAML is True, which is an int.
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"seed: expected a whole number of 0 or more, got {seed!r}")
    parts = mapping(top.get("parts") or {}, "parts")
    if not parts:
        raise ConfigError("parts: expected at least one part, got none")
    return Experiment(tuple(_part(str(name), node, seed) for name, node in parts.items()), seed)


def _part(name: str, node: Any, seed: int) -> Part:
    where = f"parts.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"parts: a name is also that of files; expected a-z, 0-9 and ._- in it, got {name!r}"
        )
    settings = dict(mapping(node or {}, where))
    kind = str(settings.pop("kind", name))
    try:
        settings_type = kind_of(kind).SETTINGS
    except ConfigError as error:
        raise ConfigError(f"{where}.kind: {error}") from error
    if "seed" in {field.name for field in fields(settings_type)}:
        settings.setdefault("seed", seed)
    # jsonargparse checks keys and types against the dataclass and names the field in its errors.
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=settings_type, default=settings_type())
    try:
        instance = parser.instantiate(parser.parse_object({"part": settings})).part
    except (ArgumentError, ConfigError, TypeError, ValueError) as error:
        # Remove the name of the parser's option, which the user never wrote.
        reason = " ".join(str(error).split()).removeprefix("Group 'part' ")
        reason = reason.removeprefix("Parser key ").replace('"part.', '"', 1)
        raise ConfigError(f"{where}: {reason}") from error
    return Part(name, kind, instance)
