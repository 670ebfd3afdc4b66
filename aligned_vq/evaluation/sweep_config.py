"""The configuration of a sweep, a base with overrides per run, and the records of its runs.

questions: 2000
base:                       # any field of a TrainConfig
  codec: {split: ln1@1}
runs:
  wide:
    codec: {codebook_dim: 64}   # merged into the base; null restores the default
    group: width                # the plot that the run belongs to ...
    x: 64                       # ... and its x value, or a mapping with one per operating point
    points: [fixed]             # operating points to evaluate; default: all
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
from aligned_vq.files.atomic_file import write_json
from aligned_vq.files.yaml_file import mapping, read_yaml
from aligned_vq.training.config import TrainConfig
from aligned_vq.training.config_file import config_from

QUESTIONS = 2000
XValue = float | str
"""Position of a run on the x axis of its plot: a number or a label."""
_TOP_KEYS = ("questions", "base", "runs")
_RUN_KEYS = ("group", "x", "points")
_RESERVED_PLOTS = ("rate", "usage")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Args:
        name: of the run and its JSON file.
        config: of the codec's training or calibration.
        group: name of the plot that the run belongs to; empty: none.
        x: its x value in that plot, or one per operating point; None: the run's name.
        points: operating points to evaluate; empty: all.
    """

    name: str
    config: TrainConfig
    group: str = ""
    x: XValue | Mapping[str, XValue] | None = None
    points: tuple[str, ...] = ()

    def x_value(self, point: str) -> XValue:
        """The x value of an operating point's row."""
        x = self.x.get(point) if isinstance(self.x, Mapping) else self.x
        return self.name if x is None else x


@dataclass(frozen=True)
class SweepConfig:
    """The runs, and the number of test questions for each."""

    runs: tuple[SweepRun, ...]
    questions: int = QUESTIONS

    @property
    def checkpoint(self) -> str:
        """The checkpoint of all runs."""
        return self.runs[0].config.checkpoint


def read_sweep(path: Path) -> SweepConfig:
    """The sweep in a YAML file.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, a value is of the wrong type, or
            runs cannot be compared.
    """
    return read_yaml(path, parse_sweep)


def parse_sweep(settings: Any) -> SweepConfig:
    """The sweep in parsed YAML; raises ConfigError as `read_sweep`."""
    top = mapping(settings, "a sweep", _TOP_KEYS)
    questions = top.get("questions", QUESTIONS)
    if type(questions) is not int or questions < 1:
        raise ConfigError(f"questions must be a positive integer, got {questions!r}")
    base = mapping(top.get("base") or {}, "base")
    run_settings = mapping(top.get("runs") or {}, "runs")
    if not run_settings:
        raise ConfigError("runs must name at least one run, got none")
    config_from(base, "base")  # so that an error in the base is not attributed to a run
    runs = tuple(_run(str(name), overrides, base) for name, overrides in run_settings.items())
    for name in ("checkpoint", "revision", "precision"):  # all runs are evaluated on one model
        values = {str(getattr(run.config, name)) for run in runs}
        if len(values) > 1:
            listed = ", ".join(sorted(values))
            raise ConfigError(
                f"the runs of a sweep share one {name}, got {listed}: make two sweeps"
            )
    return SweepConfig(runs, questions)


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `overrides`; nested mappings are merged too, and None removes a key."""
    result = dict(base)
    for key, value in overrides.items():
        base_value = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(base_value, Mapping):
            result[key] = merged(base_value, value)
        else:
            result[key] = value
    return result


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a file; None if the file does not exist.

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
        raise ConfigError(
            f"{path}: expected the record of a sweep's run, got other JSON; remove it"
        )
    return record


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record atomically."""
    write_json(path, record)


def provenance() -> dict[str, Any]:
    """Versions and commit of the code that makes a record, and the date (UTC, ISO 8601)."""
    packages = {name: version(name) for name in ("torch", "transformers", "accelerate")}
    return {
        "versions": {"aligned_vq": aligned_vq.__version__, **packages},
        "commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_commit(file: Path = Path(aligned_vq.__file__)) -> str | None:
    """The commit of the repository that tracks `file`, with `-dirty` if it has changes; or None."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Fails for an installed package that happens to be inside of another repository.
        git("ls-files", "--error-unmatch", file.name)
        # Without tags, so that the description is always the commit's hash.
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        # Not a repository, an untracked file, or git is not installed.
        return None


def _run(name: str, overrides: Any, base: Mapping[str, Any]) -> SweepRun:
    where = f"runs.{name}"
    if not _NAME.fullmatch(name) or name == "unsplit":
        raise ConfigError(
            f"a run's name becomes a file's: expected letters, digits and ._@+-, and not "
            f"'unsplit', got {name!r}"
        )
    config_overrides = dict(mapping(overrides or {}, where))
    settings = {key: config_overrides.pop(key) for key in _RUN_KEYS if key in config_overrides}
    # The other keys are fields of a TrainConfig.
    config = config_from(merged(base, config_overrides), where)
    plan = config.codec.plan()
    # The identity quantizer has no operating points.
    available = [point.name for point in plan.operating_points] or ["raw"]
    points, x = settings.get("points") or (), settings.get("x")
    group = str(settings.get("group") or "")
    if group and (not _NAME.fullmatch(group) or group in _RESERVED_PLOTS):
        raise ConfigError(
            f"{where}.group becomes a file's name: expected letters, digits and ._@+-, and none of "
            f"{', '.join(_RESERVED_PLOTS)}, got {group!r}"
        )
    if not isinstance(points, list | tuple) or not set(points) <= set(available):
        raise ConfigError(f"{where}.points must be some of {', '.join(available)}, got {points!r}")
    if isinstance(x, Mapping) and not set(x) <= set(available):
        raise ConfigError(f"{where}.x must name some of {', '.join(available)}, got {list(x)}")
    x_values = list(x.values()) if isinstance(x, Mapping) else [x]
    if not all(value is None or isinstance(value, int | float | str) for value in x_values):
        raise ConfigError(f"{where}.x must be a number or a text, or one per point, got {x!r}")
    if config.lora.rank:
        raise ConfigError(
            f"{where}: a sweep evaluates codecs on one frozen model; expected lora.rank 0, "
            f"got {config.lora.rank}"
        )
    return SweepRun(name, config, group, x, tuple(points))
