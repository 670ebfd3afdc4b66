"""Mutated questions against a real service: none may crash it, hang it, or trigger a bug.

Every call has to end within its deadline with an answer or with a status other than INTERNAL and
UNKNOWN, a good question has to be answered correctly throughout, and memory has to stay flat.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tqdm import tqdm

from aligned_vq.calibration.codec import features_at, pixel_batches
from aligned_vq.codec.bundle import open_edge_bundle
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.files.atomic_file import write_file
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess
from benchmarks.robustness.mutations import Messages, mutate, serialised
from protos.alignedvq.v1 import inference_pb2 as pb

METHOD = "/alignedvq.v1.SplitInference/Ask"
DEADLINE_SECONDS = 20.0
CONCURRENCY = 32
CLOSED = "connection closed"
NEW_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
"""Channel options without which gRPC would share one connection between channels."""
BUGS = {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNAVAILABLE"}


def outcome(channel: grpc.Channel, messages: Messages) -> tuple[str, str]:
    """The name of the status with which a call ended ("answered" for OK), and the answer's text."""
    method: Any = channel.stream_stream(METHOD, None, pb.AskResponse.FromString)
    text = ""
    try:
        for response in method(iter(messages), timeout=DEADLINE_SECONDS):
            text += response.chunk.text
    except grpc.RpcError as error:
        # The service closes a connection after many calls without a question, and with it every
        # call on it.
        details = error.details() or ""
        if "Socket closed" in details or "RST_STREAM" in details:
            return CLOSED, ""
        return error.code().name, ""
    return "answered", text


def run(cloud: CloudProcess, count: int, seed: int, memory: list[int]) -> Counter[str]:
    """Ask `count` mutated questions; counts the statuses and appends resident bytes to `memory`.

    Status "WRONG" counts good questions that were answered differently.
    """
    bundle = open_edge_bundle(BUNDLE)
    image = next(iter(exam_images(1))).image
    pixels = pixel_batches(LlavaCheckpoint(CHECKPOINT), [image])
    features, residual = features_at(bundle.prefix, pixels)
    codec = bundle.codec
    encoded = codec.encode(features[0], residual[0])
    payload = codec.spec.packed(encoded)
    good = serialised(payload, "How many objects are there?")
    statuses: Counter[str] = Counter()
    # Not gRPC's asyncio client: it reports INTERNAL itself when the service refuses a question
    # before all of its messages have been sent.
    with (
        grpc.insecure_channel(cloud.target, NEW_CONNECTION) as channel,
        ThreadPoolExecutor(CONCURRENCY) as pool,
        contextlib.ExitStack() as stack,
    ):
        # Many channels, so that few of them collect enough broken calls to be closed.
        hostile = [
            stack.enter_context(grpc.insecure_channel(cloud.target, NEW_CONNECTION))
            for _ in range(CONCURRENCY)
        ]

        def ask(number: int) -> str:
            rng = np.random.default_rng([seed, number])
            return outcome(
                hostile[number % CONCURRENCY], mutate(rng, payload, encoded, codec.spec.packed)
            )[0]

        expected = outcome(channel, good)
        results = tqdm(pool.map(ask, range(count)), total=count, desc="questions")
        for number, status in enumerate(results):
            statuses[status] += 1
            if status in BUGS:
                tqdm.write(f"question {number} of seed {seed}: {status}", sys.stderr)
            if number % (count // 20 or 1) == 0:  # 20 samples over the run
                statuses["WRONG"] += outcome(channel, good) != expected
                memory.append(cloud.resident_bytes())
    return +statuses  # without zero counts


def main() -> int:
    """Print statuses and memory; exits with 1 after a crash, a hang, a bug or a leak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    memory: list[int] = []
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        statuses = run(cloud, options.count, options.seed, memory)
        alive = cloud.process.poll() is None
    # Against the first quarter, when caches and allocator pools have filled.
    growth = memory[-1] / memory[len(memory) // 4]
    figures = {
        "questions": options.count,
        "statuses": dict(statuses.most_common()),
        "alive": alive,
        "memory_mib": round(memory[-1] / 2**20),
        "memory_against_first_quarter": round(growth, 3),
    }
    print(json.dumps(figures, indent=2))
    if options.out:
        write_file(options.out, json.dumps(figures, indent=2) + "\n")
    bugs = BUGS.union({"WRONG"}).intersection(statuses)
    return 0 if alive and growth <= 1.1 and not bugs else 1


if __name__ == "__main__":
    sys.exit(main())
