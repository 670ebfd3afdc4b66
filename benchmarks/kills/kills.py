"""`kill -9` at random moments of writing: what is there then, and for whom.

Each writer runs in a process of its own, which is killed while it writes again and again; after
each kill the real readers open what is there. It must be what was there before or what is new, and
readable by another user exactly where it is not secret.
"""

from __future__ import annotations

import argparse
import json
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
from aligned_vq.files.atomic_file import write_file
from benchmarks.kills.killing import Writer, killed, undisturbed
from benchmarks.kills.large_writers import CheckpointWriter, ExportWriter
from benchmarks.kills.small_writers import CertsWriter, QueueWriter

WRITERS: dict[str, Callable[[Path], Writer]] = {
    "export": ExportWriter,
    "checkpoint": CheckpointWriter,
    "certs": CertsWriter,
    "queue": QueueWriter,
}


def run(name: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill one writer so many times; counts, and what was wrong."""
    rng = np.random.default_rng([seed, *name.encode()])
    found: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)  # another user must get to what is written there
        writer = WRITERS[name](Path(place))
        first = writer.start(rng)
        spread = undisturbed(writer, first)
        writer.check(first, 3, 3)
        for number in tqdm(range(kills), desc=name, unit="kill"):
            first = writer.start(rng)
            moment = spread.moment(rng)
            done, begun = killed(writer, first, moment)
            found["by time" if moment.call is None else "by call"] += 1
            found["while writing"] += begun > done
            try:
                state, wrong = writer.check(first, done, begun)
            except Exception as error:  # noqa: BLE001 - a reader that fails is what is looked for
                state, wrong = "neither", [f"{type(error).__name__}: {error}"]
            found[state] += 1
            faults += [
                f"{name}, kill {number} of seed {seed}, {moment}: {fault}" for fault in wrong
            ]
        first = writer.start(rng)
        undisturbed(writer, first)
        faults += [f"{name}: left behind: {left}" for left in writer.leftovers()]
    kinds = ("by time", "by call", "while writing", "before", "new", "neither")
    return {
        "writer": name,
        "kills": kills,
        "seconds_per_step": round(spread.seconds / 3, 4),
        **{kind.replace(" ", "_"): found[kind] for kind in kinds},
        "faults": faults,
    }


def main() -> int:
    """Print a line for each writer; exits with 1 if any kill left neither, or wrong rights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of each writer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writers", nargs="+", choices=WRITERS, default=list(WRITERS))
    parser.add_argument(
        "--two_renames", action="store_true", help="as on a file system that cannot exchange"
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
        write_file(options.out, json.dumps({"seed": options.seed, "rows": rows}, indent=1) + "\n")
    return 1 if any(row["faults"] or row["neither"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
