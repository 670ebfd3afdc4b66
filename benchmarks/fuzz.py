"""Mutated questions against a real service: none may crash it, hang it, or find a bug.

Every call has to end within its deadline with an answer or a status that is not INTERNAL or
UNKNOWN, a good question has to be answered right all along, and memory has to stay flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tqdm import tqdm

from aligned_vq.bundle import open_edge_bundle
from aligned_vq.calibrate import features_at, pixel_batches
from aligned_vq.reference.assets import BUNDLE, CHECKPOINT
from aligned_vq.reference.examination import exam_images
from aligned_vq.split.checkpoint import LlavaCheckpoint
from benchmarks.mutations import Messages, mutated, whole
from benchmarks.processes import CloudProcess
from protos.alignedvq.v1 import inference_pb2 as pb

METHOD = "/alignedvq.v1.SplitInference/Ask"
DEADLINE_SECONDS = 20.0
AT_ONCE = 32
BUGS = {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNAVAILABLE"}


async def outcome(channel: grpc.aio.Channel, messages: Messages) -> tuple[str, str]:
    """The name of the status a call ended with, and the answer's text."""
    method: Any = channel.stream_stream(METHOD, None, pb.AskResponse.FromString)
    call = method(iter(messages), timeout=DEADLINE_SECONDS)
    text = ""
    try:
        async for response in call:
            text += response.chunk.text
    except grpc.aio.AioRpcError as error:
        return error.code().name, ""
    return "answered", text


async def run(cloud: CloudProcess, count: int, seed: int, memory: list[int]) -> Counter[str]:
    """Statuses of `count` mutated questions."""
    bundle = open_edge_bundle(BUNDLE)
    picture = next(iter(exam_images(1))).picture
    pixels = pixel_batches(LlavaCheckpoint(CHECKPOINT), [picture])
    features, residual = features_at(bundle.prefix, pixels)
    codec = bundle.codec
    encoded = codec.encode(features[0], residual[0])
    payload = codec.packed(encoded)
    found: Counter[str] = Counter()
    numbers = iter(range(count))
    async with grpc.aio.insecure_channel(cloud.target) as channel:
        good = whole(payload, "How many objects are there?")
        _, expected = await outcome(channel, good)
        with tqdm(total=count, desc="questions") as bar:

            async def work() -> None:
                for number in numbers:
                    rng = np.random.default_rng([seed, number])
                    status, _ = await outcome(channel, mutated(rng, payload, encoded, codec.packed))
                    if status in BUGS:
                        print(f"question {number} of seed {seed}: {status}", file=sys.stderr)
                    found[status] += 1
                    bar.update()
                    if number % (count // 20 or 1) == 0:
                        if await outcome(channel, good) != ("answered", expected):
                            found["WRONG"] += 1
                        memory.append(cloud.resident_bytes())

            await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return found


def main() -> int:
    """Print the statuses and memory; exits with 1 for a crash, a hang, a bug or a leak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    memory: list[int] = []
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        found = asyncio.run(run(cloud, options.count, options.seed, memory))
        alive = cloud.process.poll() is None
    growth = memory[-1] / memory[len(memory) // 4]
    figures = {
        "questions": options.count,
        "statuses": dict(found.most_common()),
        "alive": alive,
        "memory_mib": round(memory[-1] / 2**20),
        "memory_against_first_quarter": round(growth, 3),
    }
    print(json.dumps(figures, indent=2))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if alive and growth <= 1.1 and not BUGS.union({"WRONG"}).intersection(found) else 1


if __name__ == "__main__":
    sys.exit(main())
