"""Run an experiment: one YAML file in, one JSON record out, and a table and a plot of every part.

python -m benchmarks.bench benchmarks/experiments/smallest.yaml --out DIR

writes DIR/smallest.json and, for each part, DIR/PART.md and DIR/PART.png. `--parts` measures only
the parts it names and leaves the records of the others in the JSON file unchanged. `--draw`
measures nothing and draws tables and plots from the existing record.
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
"""The record of one part, as `measure_part` returns it."""


def measure_part(part: Part, seed: int) -> Record:
    """The record of one part: its rows, and what is needed to judge and to reproduce them."""
    origin = provenance()
    started = time.perf_counter()
    rows = [with_statistics(row) for row in kind_of(part.kind).measure(part.settings)]
    # A process started after the change ran other code than one started before it.
    if git_commit() != origin["commit"]:
        origin["commit"] = f"{origin['commit']}, changed while it measured"
    return {
        "kind": part.kind,
        **origin,
        "seed": seed,
        "settings": _settings_json(part),
        "seconds": round(time.perf_counter() - started, 1),
        "rows": rows,
    }


def read_parts(path: Path) -> dict[str, Record]:
    """The part records in a JSON file, by part name; empty if the file does not exist.

    Raises:
        ConfigError: the file is not the record of an experiment.
    """
    try:
        parts: dict[str, Record] = json.loads(path.read_text(encoding="utf-8"))["parts"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected the record of an experiment; remove it") from error
    return parts


def changed_settings(part: Part, record: Record) -> list[str]:
    """The settings in which a record differs from the experiment, as "KEY OLD instead of NEW"."""
    current = {"kind": part.kind, **_settings_json(part)}
    recorded = {"kind": record["kind"], **record["settings"]}
    return [
        f"{key} {recorded.get(key)!r} instead of {current.get(key)!r}"
        for key in {**current, **recorded}
        if current.get(key) != recorded.get(key)
    ]


def draw(name: str, record: Record, folder: Path) -> str:
    """Write the table and the plot of a part; returns the table."""
    kind = kind_of(record["kind"])
    table = kind.table(record["rows"])
    write_file(folder / f"{name}.md", table)
    kind.plot(record["rows"], folder / name)
    return table


def select_parts(experiment: Experiment, names: Sequence[str] | None) -> list[Part]:
    """The parts with these names, or all without names; ConfigError for an unknown name."""
    parts = {part.name: part for part in experiment.parts}
    for name in names or ():
        if name not in parts:
            raise ConfigError(f"--parts: expected some of {', '.join(parts)}, got {name!r}")
    return [parts[name] for name in names or parts]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and draw, or only draw; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", type=Path, help="YAML file")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for record, tables and plots"
    )
    parser.add_argument("--parts", nargs="+", help="measure or draw only these parts")
    parser.add_argument("--draw", action="store_true", help="draw from the existing record")
    parser.add_argument("--json", action="store_true", help="print the record, not the tables")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except AlignedVQError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    """Measure or draw the selected parts.

    Raises:
        ConfigError: the experiment or an existing record is invalid, or a part to draw was never
            measured.
    """
    experiment = read_experiment(options.experiment)
    parts = select_parts(experiment, options.parts)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.experiment.stem}.json"
    records = read_parts(path)
    if options.draw and not options.parts:
        # Where nothing was measured, the loop below reports it for the first part.
        parts = [part for part in parts if part.name in records] or parts
    for part in parts:
        if not options.draw:
            records[part.name] = measure_part(part, experiment.seed)
            # In the experiment's order, without records of parts that it no longer has.
            records = {
                each.name: records[each.name] for each in experiment.parts if each.name in records
            }
            # After each part, so that an interrupted run loses only the current one.
            write_record(path, {"experiment": options.experiment.stem, "parts": records})
        elif part.name not in records:
            raise ConfigError(f"{path}: nothing was measured of {part.name}; leave out --draw")
        elif changes := changed_settings(part, records[part.name]):
            print(f"{part.name} was measured with {', '.join(changes)}", file=sys.stderr)
        table = draw(part.name, records[part.name], options.out)
        if not options.json:
            print(f"{part.name}\n\n{table}", flush=True)
    if options.json:
        print(json.dumps({"experiment": options.experiment.stem, "parts": records}))


def _settings_json(part: Part) -> dict[str, Any]:
    """Settings as JSON reads them back: tuples become lists, paths become strings."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(part.settings), default=str))
    return settings


if __name__ == "__main__":
    sys.exit(main())
