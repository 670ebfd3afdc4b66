"""Measure an experiment: one YAML in, one JSON out, and a table and a plot of every part.

python -m benchmarks.bench benchmarks/experiments/smallest.yaml --out DIR

writes DIR/smallest.json and, for each part, DIR/PART.md, .png and .svg. `--parts` measures some
of them and keeps what the JSON holds of the others; `--draw` measures nothing and draws what it
holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aligned_vq.errors import AlignedVQError, ConfigError
from aligned_vq.evaluation.sweep_config import git_commit, write_record
from aligned_vq.files.atomic_file import write_file
from benchmarks.experiment import Experiment, Part, kind_of, read_experiment
from benchmarks.harness.provenance import provenance
from benchmarks.harness.tables import with_statistics

Record = dict[str, Any]
"""`experiment`, its name, and `parts`: by name what `measured` gives."""


def measured(part: Part, seed: int) -> Record:
    """Rows of a part with all that is needed to judge them, or to measure them again."""
    origin = provenance()
    started = time.perf_counter()
    rows = [with_statistics(row) for row in kind_of(part.kind).measure(part.settings)]
    if git_commit() != origin["commit"]:  # processes started later ran other code
        origin["commit"] = f"{origin['commit']}, changed while it measured"
    return {
        "kind": part.kind,
        **origin,
        "seed": seed,
        "settings": _told(part),
        "seconds": round(time.perf_counter() - started, 1),
        "rows": rows,
    }


def read_parts(path: Path) -> dict[str, Record]:
    """By name the parts that a record holds; none if there is no such file.

    Raises:
        ConfigError: the file is no record of an experiment.
    """
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected the record of an experiment; remove it") from error
    found: dict[str, Record] = parts
    return found


def other_settings(part: Part, held: Record) -> list[str]:
    """What a part was measured with where the experiment says something else now; as words."""
    told = {"kind": part.kind, **_told(part)}
    known = {"kind": held["kind"], **held["settings"]}
    return [
        f"{key} {known.get(key)!r} instead of {told.get(key)!r}"
        for key in {**told, **known}
        if told.get(key) != known.get(key)
    ]


def draw(name: str, part: Record, folder: Path) -> str:
    """Write table and plot of a part; returns the table."""
    kind = kind_of(part["kind"])
    table = kind.table(part["rows"])
    write_file(folder / f"{name}.md", table)
    kind.plot(part["rows"], folder / name)
    return table


def chosen(experiment: Experiment, names: Sequence[str] | None) -> list[Part]:
    """Parts of these names, or all; ConfigError names one that there is not."""
    known = {part.name: part for part in experiment.parts}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--parts: expected some of {', '.join(known)}, got {name!r}")
    return [known[name] for name in names or known]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and draw, or only draw; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", type=Path, help="YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--parts", nargs="+", help="measure or draw these only")
    parser.add_argument("--draw", action="store_true", help="draw what was measured before")
    parser.add_argument("--json", action="store_true", help="print the record, not the tables")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except AlignedVQError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    """What the command line says."""
    experiment = read_experiment(options.experiment)
    parts = chosen(experiment, options.parts)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.experiment.stem}.json"
    held = read_parts(path)
    if options.draw and not options.parts:
        parts = [part for part in parts if part.name in held] or parts
    for part in parts:
        if not options.draw:
            held[part.name] = measured(part, experiment.seed)
            held = {own.name: held[own.name] for own in experiment.parts if own.name in held}
            write_record(path, {"experiment": options.experiment.stem, "parts": held})
        elif part.name not in held:
            raise ConfigError(f"{path}: nothing was measured of {part.name}; leave out --draw")
        elif other := other_settings(part, held[part.name]):
            print(f"{part.name} was measured with {', '.join(other)}", file=sys.stderr)
        table = draw(part.name, held[part.name], options.out)
        if not options.json:
            print(f"{part.name}\n\n{table}", flush=True)
    if options.json:
        print(json.dumps({"experiment": options.experiment.stem, "parts": held}))


def _told(part: Part) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(json.dumps(asdict(part.settings), default=str))
    return told


if __name__ == "__main__":
    sys.exit(main())
