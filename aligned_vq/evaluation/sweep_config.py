"""What a sweep is told, and the records it keeps: a base configuration, and runs that differ.

questions: 2000
base:                       # any field of a TrainConfig
  codec: {split: ln1@1}
runs:
  wide:
    codec: {codebook_dim: 64}   # merged into the base; null takes the default again
    group: width                # the plot the run belongs to ...
    x: 64                       # ... and its place there, or one place per operating point
    points: [fixed]             # operating points to examine; default: all
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aligned_vq
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.files.yaml_file import mapping, read_yaml
from aligned_vq.training.config import TrainConfig
from aligned_vq.training.config_file import config_from

QUESTIONS = 2000
Place = float | str
"""Where a run stands in its plot: a number, or a label."""
_TOP_KEYS = ("questions", "base", "runs")
_RUN_KEYS = ("group", "x", "points")
_OTHER_PLOTS = ("rate", "usage")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Args:
        name: of its JSON file.
        config: what is trained or calibrated.
        group: the plot it belongs to; empty: none.
        x: its place in that plot, or a place per operating point; None: its name.
        points: operating points to examine; empty: all.
    """

    name: str
    config: TrainConfig
    group: str = ""
    x: Place | Mapping[str, Place] | None = None
    points: tuple[str, ...] = ()

    def place(self, point: str) -> Place:
        """Where the row of an operating point stands."""
        x = self.x.get(point) if isinstance(self.x, Mapping) else self.x
        return self.name if x is None else x


@dataclass(frozen=True)
class SweepConfig:
    """Runs, and how many test questions each is asked."""

    runs: tuple[SweepRun, ...]
    questions: int = QUESTIONS

    @property
    def checkpoint(self) -> str:
        """The checkpoint that all runs share."""
        return self.runs[0].config.checkpoint


def read_sweep(path: Path) -> SweepConfig:
    """A sweep from its YAML file.

    Raises:
        ConfigError: the file cannot be read, an unknown key, a value of the wrong type, or runs
            that cannot be compared.
    """
    return read_yaml(path, parse_sweep)


def parse_sweep(settings: Any) -> SweepConfig:
    """A sweep from what its YAML says; raises ConfigError as `read_sweep`."""
    top = mapping(settings, "a sweep", _TOP_KEYS)
    questions = top.get("questions", QUESTIONS)
    if type(questions) is not int or questions < 1:
        raise ConfigError(f"questions must be a positive whole number, got {questions!r}")
    base = mapping(top.get("base") or {}, "base")
    named = mapping(top.get("runs") or {}, "runs")
    if not named:
        raise ConfigError("runs must name at least one run, got none")
    config_from(base, "base")  # an error in the base is told once, and as the base's
    runs = tuple(_run(str(name), overrides, base) for name, overrides in named.items())
    for name in ("checkpoint", "revision", "precision"):  # one model, one process
        values = {str(getattr(run.config, name)) for run in runs}
        if len(values) > 1:
            told = ", ".join(sorted(values))
            raise ConfigError(f"the runs of a sweep share one {name}, got {told}: make two sweeps")
    return SweepConfig(runs, questions)


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `overrides` put over it, mappings inside merged likewise, None removing a key."""
    result = dict(base)
    for key, value in overrides.items():
        old = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, None if there is no such file.

    Raises:
        ConfigError: the file is not a record of a sweep.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); remove it") from error
    if not isinstance(record, dict) or "questions" not in record:
        raise ConfigError(f"{path}: expected the record of a sweep's run; remove it")
    return record


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole or not at all."""
    write_file(path, json.dumps(record, indent=1) + "\n")


def provenance() -> dict[str, Any]:
    """Which code made a record, and when (UTC, ISO 8601)."""
    packages = {name: version(name) for name in ("torch", "transformers", "accelerate")}
    return {
        "versions": {"aligned_vq": aligned_vq.__version__, **packages},
        "commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_commit(file: Path = Path(aligned_vq.__file__)) -> str | None:
    """The commit of the working tree that `file` is tracked in, `-dirty` if changed; None: none."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(file.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # an installed copy may lie in any repository
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _run(name: str, overrides: Any, base: Mapping[str, Any]) -> SweepRun:
    where = f"runs.{name}"
    if not _NAME.fullmatch(name) or name == "unsplit":
        raise ConfigError(
            f"a run's name becomes a file's: expected letters, digits and ._@+-, and not "
            f"'unsplit', got {name!r}"
        )
    own = dict(mapping(overrides or {}, where))
    told = {key: own.pop(key) for key in _RUN_KEYS if key in own}
    config = config_from(merged(base, own), where)
    plan = config.codec.plan()
    known = [point.name for point in plan.operating_points] or ["raw"]
    points, x = told.get("points") or (), told.get("x")
    group = str(told.get("group") or "")
    if group and (not _NAME.fullmatch(group) or group in _OTHER_PLOTS):
        raise ConfigError(f"{where}.group becomes a file's name: got {group!r}, give it another")
    if not isinstance(points, list | tuple) or not set(points) <= set(known):
        raise ConfigError(f"{where}.points must be some of {', '.join(known)}, got {points!r}")
    if isinstance(x, Mapping) and not set(x) <= set(known):
        raise ConfigError(f"{where}.x must name some of {', '.join(known)}, got {list(x)}")
    places = list(x.values()) if isinstance(x, Mapping) else [x]
    if not all(place is None or isinstance(place, int | float | str) for place in places):
        raise ConfigError(f"{where}.x must be a number or a text, or one per point, got {x!r}")
    if config.lora.rank:
        raise ConfigError(
            f"{where}: a sweep examines codecs on one frozen model; expected lora.rank 0, "
            f"got {config.lora.rank}"
        )
    return SweepRun(name, config, group, x, tuple(points))
