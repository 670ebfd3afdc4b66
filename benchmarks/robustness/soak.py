"""Half an hour of mixed load: good questions, new images, cancelled streams, broken payloads.

Memory at the end must be at most 10 % above that after five minutes, and good questions must get
the same answers throughout.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tqdm import tqdm

from aligned_vq.codec.bundle import open_edge_bundle
from aligned_vq.files.atomic_file import write_file
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.load import LoadClient, clients
from benchmarks.harness.processes import CloudProcess
from benchmarks.robustness.fuzz import BUGS, METHOD, outcome
from benchmarks.robustness.mutations import mutate, serialised, shuffle_indices
from protos.alignedvq.v1 import inference_pb2 as pb

CONCURRENCY = 8
MARK_SECONDS = 300
TEXT = "How many objects are there?"


def cancelled(channel: grpc.Channel, client: LoadClient) -> str:
    """Ask for a description and cancel the call after the first chunk."""
    method: Any = channel.stream_stream(METHOD, None, pb.AskResponse.FromString)
    call = method(iter(serialised(client.payload, "Describe the picture.", tokens=40)), timeout=20)
    # The answer is running for certain once it has a chunk.
    next(call)
    call.cancel()
    return "cancelled"


def run(
    cloud: CloudProcess, seconds: float, load: list[LoadClient]
) -> tuple[Counter[str], list[tuple[float, int]]]:
    """Run the load for `seconds`; counts of outcomes, and (elapsed seconds, resident bytes)."""
    codec = open_edge_bundle(BUNDLE).codec
    memory: list[tuple[float, int]] = []
    started = time.monotonic()
    with grpc.insecure_channel(cloud.target) as channel, ThreadPoolExecutor(CONCURRENCY) as pool:
        expected = [outcome(channel, serialised(client.payload, TEXT)) for client in load]

        def work(number: int) -> Counter[str]:
            outcomes: Counter[str] = Counter()
            rng = np.random.default_rng(number)
            while time.monotonic() - started < seconds:
                index = int(rng.integers(len(load)))
                client = load[index]
                match int(rng.integers(10)):
                    case 0:
                        outcomes[cancelled(channel, client)] += 1
                    case 1:
                        broken = mutate(rng, client.payload, client.encoded, codec.spec.packed)
                        status, _ = outcome(channel, broken)
                        # Bugs under their bare status, by which `main` looks for them.
                        outcomes[f"broken: {status}" if status not in BUGS else status] += 1
                    case 2:
                        new = codec.spec.packed(shuffle_indices(rng, client.encoded))
                        status, _ = outcome(channel, serialised(new, TEXT))
                        outcomes[f"new picture: {status}"] += 1
                    case _:
                        result = outcome(channel, serialised(client.payload, TEXT))
                        outcomes["good: answered" if result == expected[index] else "WRONG"] += 1
            return outcomes

        workers = pool.map(work, range(CONCURRENCY))
        with tqdm(total=round(seconds), desc="soak", unit="s") as bar:
            while (elapsed := time.monotonic() - started) < seconds:
                memory.append((elapsed, cloud.resident_bytes()))
                bar.set_postfix(mib=memory[-1][1] >> 20)
                bar.update(round(elapsed) - bar.n)
                time.sleep(1)
        return sum(workers, Counter()), memory


def main() -> int:
    """Print outcomes and memory; exits with 1 after a leak, a bug or a wrong answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    seconds = 60 * options.minutes
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        outcomes, memory = run(cloud, seconds, clients(8, 4))
        alive = cloud.process.poll() is None
    # Short runs use the value after a sixth of their time instead of that after five minutes.
    mark = next(size for elapsed, size in memory if elapsed >= min(MARK_SECONDS, seconds / 6))
    figures = {
        "minutes": options.minutes,
        "outcomes": dict(outcomes.most_common()),
        "alive": alive,
        "memory_mib": {"mark": mark >> 20, "end": memory[-1][1] >> 20},
        "ratio": round(memory[-1][1] / mark, 3),
    }
    print(json.dumps(figures, indent=2))
    if options.out:
        write_file(options.out, json.dumps(figures, indent=2) + "\n")
    bad = BUGS.union({"WRONG"}).intersection(outcomes)
    return 0 if alive and not bad and memory[-1][1] <= 1.1 * mark else 1


if __name__ == "__main__":
    sys.exit(main())
