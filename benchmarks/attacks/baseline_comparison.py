"""What the limits cost without an attack: this tree's service compared with another checkout's.

Both services run at the same time and are loaded alternately, so that a slow moment of the machine
affects both. Throughput and 95th percentile are compared by the median of the ratios of all rounds.
Exits with 1 if this tree is more than 3 % behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from pathlib import Path

from tqdm import tqdm

from aligned_vq.files.atomic_file import write_json
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.load import LoadClient, clients, run
from benchmarks.harness.processes import CloudProcess

MAX_LOSS = 0.03


async def load_service(target: str, load: list[LoadClient]) -> tuple[float, float]:
    """Questions per second, and the 95th percentile of the seconds of a question."""
    seconds, times, _ = await run(target, load, together=True)
    # The last of 19 cut points is the 95th percentile.
    return len(times) / seconds, statistics.quantiles(times, n=20)[-1]


def measure(this: str, baseline: str, load: list[LoadClient], rounds: int) -> dict[str, float]:
    """Medians and spreads of the ratios of this tree's figures to the baseline's.

    The service that is loaded first alternates between rounds.
    """
    throughput, p95 = [], []
    for target in (this, baseline):
        asyncio.run(load_service(target, load))  # warms up, and fills the image caches
    for number in tqdm(range(rounds), leave=False):
        order = (this, baseline) if number % 2 else (baseline, this)
        results = {target: asyncio.run(load_service(target, load)) for target in order}
        throughput.append(results[this][0] / results[baseline][0])
        p95.append(results[this][1] / results[baseline][1])
    return {
        "rounds": rounds,
        "throughput_ratio": round(statistics.median(throughput), 3),
        "p95_ratio": round(statistics.median(p95), 3),
        "throughput_spread": round(statistics.pstdev(throughput), 3),
        "p95_spread": round(statistics.pstdev(p95), 3),
    }


def main() -> int:
    """Print the ratios; exits with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="checkout of another version")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--questions", type=int, default=8, help="of each client and round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    other = options.other.resolve()
    load = clients(options.clients, options.questions)
    # `env` replaces itself with the service, whose pid stays the one to end.
    baseline_process = CloudProcess(BUNDLE, CHECKPOINT).launched_by(
        "env", f"--chdir={other}", f"PYTHONPATH={other}"
    )
    with CloudProcess(BUNDLE, CHECKPOINT) as this, baseline_process as baseline:
        figures = measure(this.target, baseline.target, load, options.rounds)
    print(json.dumps(figures))
    if options.out:
        write_json(options.out, figures)
    met = figures["throughput_ratio"] >= 1 - MAX_LOSS and figures["p95_ratio"] <= 1 + MAX_LOSS
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
