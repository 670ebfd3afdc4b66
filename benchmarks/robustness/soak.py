"""Half an hour of everything: good questions, new pictures, cancelled streams, broken payloads.

Memory at the end must be at most a tenth above that of minute 5, and good questions must be
answered the same all along.
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
from benchmarks.robustness.mutations import mutated, shuffled, whole
from protos.alignedvq.v1 import inference_pb2 as pb

AT_ONCE = 8
MARK_SECONDS = 300
TEXT = "How many objects are there?"


def cancelled(channel: grpc.Channel, client: LoadClient) -> str:
    """A description given up after its first piece."""
    method: Any = channel.stream_stream(METHOD, None, pb.AskResponse.FromString)
    call = method(iter(whole(client.payload, "Describe the picture.", tokens=40)), timeout=20)
    next(call)
    call.cancel()
    return "cancelled"


def run(
    cloud: CloudProcess, seconds: float, own: list[LoadClient]
) -> tuple[Counter[str], list[tuple[float, int]]]:
    """Outcomes, and resident bytes by second."""
    codec = open_edge_bundle(BUNDLE).codec
    memory: list[tuple[float, int]] = []
    started = time.monotonic()
    with grpc.insecure_channel(cloud.target) as channel, ThreadPoolExecutor(AT_ONCE) as pool:
        expected = [outcome(channel, whole(client.payload, TEXT)) for client in own]

        def work(number: int) -> Counter[str]:
            found: Counter[str] = Counter()
            rng = np.random.default_rng(number)
            while time.monotonic() - started < seconds:
                place = int(rng.integers(len(own)))
                client = own[place]
                match int(rng.integers(10)):
                    case 0:
                        found[cancelled(channel, client)] += 1
                    case 1:
                        broken = mutated(rng, client.payload, client.encoded, codec.spec.packed)
                        status, _ = outcome(channel, broken)
                        found[f"broken: {status}" if status not in BUGS else status] += 1
                    case 2:
                        new = codec.spec.packed(shuffled(rng, client.encoded))
                        status, _ = outcome(channel, whole(new, TEXT))
                        found[f"new picture: {status}"] += 1
                    case _:
                        got = outcome(channel, whole(client.payload, TEXT))
                        found["good: answered" if got == expected[place] else "WRONG"] += 1
            return found

        workers = pool.map(work, range(AT_ONCE))
        with tqdm(total=round(seconds), desc="soak", unit="s") as bar:
            while (passed := time.monotonic() - started) < seconds:
                memory.append((passed, cloud.resident_bytes()))
                bar.set_postfix(mib=memory[-1][1] >> 20)
                bar.update(round(passed) - bar.n)
                time.sleep(1)
        return sum(workers, Counter()), memory


def main() -> int:
    """Print outcomes and memory; exits with 1 for a leak, a bug or a wrong answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    seconds = 60 * options.minutes
    own = clients(8, 4)
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        found, memory = run(cloud, seconds, own)
        alive = cloud.process.poll() is None
    mark = next(size for passed, size in memory if passed >= min(MARK_SECONDS, seconds / 6))
    figures = {
        "minutes": options.minutes,
        "outcomes": dict(found.most_common()),
        "alive": alive,
        "memory_mib": {"mark": mark >> 20, "end": memory[-1][1] >> 20},
        "ratio": round(memory[-1][1] / mark, 3),
    }
    print(json.dumps(figures, indent=2))
    if options.out:
        write_file(options.out, json.dumps(figures, indent=2) + "\n")
    bad = BUGS.union({"WRONG"}).intersection(found)
    return 0 if alive and not bad and memory[-1][1] <= 1.1 * mark else 1


if __name__ == "__main__":
    sys.exit(main())
