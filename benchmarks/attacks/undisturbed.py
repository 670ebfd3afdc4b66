"""What limits cost good clients: this tree's service beside another checkout's, nobody attacking.

Both run at the same time and are asked in turns, so that a slow moment of the machine meets both.
Throughput and 95th percentile are medians of the turns' ratios. Exits with 1 where this tree is
more than 3 % behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from pathlib import Path

from tqdm import tqdm

from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.load import LoadClient, clients, run
from benchmarks.harness.processes import CloudProcess

MOST_BEHIND = 0.03


async def turn(target: str, own: list[LoadClient]) -> tuple[float, float]:
    """Questions a second, and the 95th percentile of a question's seconds."""
    seconds, times, _ = await run(target, own, together=True)
    return len(times) / seconds, statistics.quantiles(times, n=20)[-1]


def measure(ours: str, theirs: str, own: list[LoadClient], rounds: int) -> dict[str, float]:
    """Median ratios, ours to theirs; which of them begins changes with every round."""
    throughput, p95 = [], []
    for each in (ours, theirs):
        asyncio.run(turn(each, own))  # warm, and pictures are held
    for number in tqdm(range(rounds), leave=False):
        order = (ours, theirs) if number % 2 else (theirs, ours)
        found = {target: asyncio.run(turn(target, own)) for target in order}
        throughput.append(found[ours][0] / found[theirs][0])
        p95.append(found[ours][1] / found[theirs][1])
    return {
        "rounds": rounds,
        "throughput_ratio": round(statistics.median(throughput), 3),
        "p95_ratio": round(statistics.median(p95), 3),
        "throughput_spread": round(statistics.pstdev(throughput), 3),
        "p95_spread": round(statistics.pstdev(p95), 3),
    }


def main() -> int:
    """Print ratios; exits with 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="checkout of another version")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--questions", type=int, default=8, help="of each client and turn")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    other = options.other.resolve()
    own = clients(options.clients, options.questions)
    elsewhere = CloudProcess(BUNDLE, CHECKPOINT).launched_by(
        "env", f"--chdir={other}", f"PYTHONPATH={other}"
    )
    with CloudProcess(BUNDLE, CHECKPOINT) as ours, elsewhere as theirs:
        figures = measure(ours.target, theirs.target, own, options.rounds)
    print(json.dumps(figures))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    held = (
        figures["throughput_ratio"] >= 1 - MOST_BEHIND and figures["p95_ratio"] <= 1 + MOST_BEHIND
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
