"""`kill -9` at random moments of writing: the content and the permissions that remain.

Each writer runs in a separate process that is killed while it writes repeatedly. After each kill
the real readers open what is on disk. It has to be the content before or after the interrupted
step, and readable by other users if and only if it is not secret.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from aligned_vq.files import renameat2
from aligned_vq.files.atomic_file import write_json
from benchmarks.kills.killing import UNINTERRUPTED_STEPS, Writer, kill_at, run_uninterrupted
from benchmarks.kills.large_writers import CheckpointWriter, ExportWriter
from benchmarks.kills.small_writers import CertsWriter, QueueWriter

WRITERS: dict[str, Callable[[Path], Writer]] = {
    "export": ExportWriter,
    "checkpoint": CheckpointWriter,
    "certs": CertsWriter,
    "queue": QueueWriter,
}


def run(name: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill one writer `kills` times; counts by state, and descriptions of the faults."""
    rng = np.random.default_rng([seed, *name.encode()])
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # other users have to reach the files in it
        writer = WRITERS[name](Path(folder))
        first = writer.start(rng)
        uninterrupted = run_uninterrupted(writer, first)
        # The check has to pass without a kill, or faults would not be the kill's.
        writer.check(first, UNINTERRUPTED_STEPS, UNINTERRUPTED_STEPS)
        for number in tqdm(range(kills), desc=name, unit="kill"):
            first = writer.start(rng)
            moment = uninterrupted.moment(rng)
            done, begun = kill_at(writer, first, moment)
            counts["by time" if moment.call is None else "by call"] += 1
            counts["while writing"] += begun > done
            try:
                state, kill_faults = writer.check(first, done, begun)
            except Exception as error:  # noqa: BLE001 - any failure of a reader is a finding
                state, kill_faults = "neither", [f"{type(error).__name__}: {error}"]
            counts[state] += 1
            faults += [
                f"{name}, kill {number} of seed {seed}, {moment}: {fault}" for fault in kill_faults
            ]
        first = writer.start(rng)
        run_uninterrupted(writer, first)
        faults += [f"{name}: left behind: {leftover}" for leftover in writer.leftovers()]
    kinds = ("by time", "by call", "while writing", "before", "new", "neither")
    return {
        "writer": name,
        "kills": kills,
        "seconds_per_step": round(uninterrupted.seconds / UNINTERRUPTED_STEPS, 4),
        **{kind.replace(" ", "_"): counts[kind] for kind in kinds},
        "faults": faults,
    }


def main() -> int:
    """Print a line for each writer; exits with 1 after a fault or unreadable content."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of each writer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writers", nargs="+", choices=WRITERS, default=list(WRITERS))
    parser.add_argument(
        "--two_renames",
        action="store_true",
        help="as on a file system that cannot exchange two folders atomically",
    )
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the processes are forked from this one
    logging.disable(logging.WARNING)
    if options.two_renames:
        renameat2.exchange = lambda one, other: False
    print(f"kill -9 at random moments, seed {options.seed}")
    rows = [run(name, options.kills, options.seed) for name in options.writers]
    print(f"{'':<12}{'kills':>6}{'writing':>9}{'before':>8}{'new':>6}{'neither':>9}{'faults':>8}")
    for row in rows:
        print(
            f"{row['writer']:<12}{row['kills']:>6}{row['while_writing']:>9}{row['before']:>8}"
            f"{row['new']:>6}{row['neither']:>9}{len(row['faults']):>8}  target 0 and 0"
        )
        for fault in row["faults"]:
            print(f"  {fault}")
    if options.out:
        write_json(options.out, {"seed": options.seed, "rows": rows})
    return 1 if any(row["faults"] or row["neither"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
