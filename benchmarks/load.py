"""Many clients at once: a batching service against the same one limited to one at a time.

64 clients each ask 20 questions about a picture of their own, over real gRPC: the picture's payload
with the first, its digest with the others. Every answer must be the one a lone client gets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tqdm import tqdm

from aligned_vq.answers import Sampling
from aligned_vq.bundle import open_edge_bundle
from aligned_vq.calibrate import features_at, pixel_batches
from aligned_vq.reference.assets import BUNDLE, CHECKPOINT
from aligned_vq.reference.examination import exam_images
from aligned_vq.split.checkpoint import LlavaCheckpoint
from aligned_vq.types import Encoded, Payload
from benchmarks.processes import CloudProcess
from benchmarks.scraped import histogram
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from protos.messages import Question

MODES = {
    "one at a time": ("--parallel_answers=1", "--decode_batch=1"),
    "batched": ("--parallel_answers=32", "--decode_batch=8"),
}
MAX_TOKENS = 48


@dataclass(frozen=True)
class Client:
    """A picture and what is asked about it."""

    payload: Payload
    encoded: Encoded
    questions: list[str]


def clients(count: int, questions: int, kind: str = "mixed") -> list[Client]:
    """Test pictures with their questions of a kind, asked again where they are too few."""
    bundle = open_edge_bundle(BUNDLE)
    images = list(exam_images(count * 8))[:count]
    pixels = pixel_batches(LlavaCheckpoint(CHECKPOINT), (image.picture for image in images))
    features, residual = features_at(bundle.prefix, pixels)
    found = []
    for image, own, rest in zip(images, features, residual, strict=True):
        texts = [question.text for question in image.questions if kind in ("mixed", question.kind)]
        asked = [texts[number % len(texts)] for number in range(questions)]
        encoded = bundle.codec.encode(own, rest)
        found.append(Client(bundle.codec.spec.packed(encoded), encoded, asked))
    return found


async def ask(
    stub: rpc.SplitInferenceAsyncStub, client: Client, text: str, first: bool
) -> list[int]:
    """One question; returns the answer's token ids."""
    digest = b"" if first else client.payload.digest()
    question = Question("", client.payload.manifest_digest, text, Sampling(MAX_TOKENS), digest)
    call = stub.Ask()
    await call.write(pb.AskRequest(open=convert.question_to_proto(question)))
    if first:
        await _send(call, client.payload)
    tokens: list[int] = []
    async for response in call:
        if convert.is_payload_needed(response):
            await _send(call, client.payload)
        else:
            tokens += convert.chunk_from_response(response).token_ids
    return tokens


async def _send(call: Any, payload: Payload) -> None:
    for part in convert.payload_to_parts(payload):
        await call.write(pb.AskRequest(payload=part))


async def run(
    target: str, own: list[Client], together: bool
) -> tuple[float, list[float], list[list[list[int]]]]:
    """Seconds in all, seconds of each question, and answers by client."""
    times: list[float] = []
    async with grpc.aio.insecure_channel(target) as channel:
        stub: rpc.SplitInferenceAsyncStub = rpc.SplitInferenceStub(channel)
        total = sum(len(client.questions) for client in own)
        with tqdm(total=total, desc="questions", leave=False) as bar:

            async def talk(client: Client) -> list[list[int]]:
                answers = []
                for number, text in enumerate(client.questions):
                    started = time.perf_counter()
                    answers.append(await ask(stub, client, text, number == 0))
                    times.append(time.perf_counter() - started)
                    bar.update()
                return answers

            started = time.perf_counter()
            if together:
                answers = await asyncio.gather(*map(talk, own))
            else:
                answers = [await talk(client) for client in own]
            return time.perf_counter() - started, times, list(answers)


def main() -> int:
    """Print throughput, latencies and batch sizes; exits with 1 if an answer differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--questions", type=int, default=20, help="of each client")
    parser.add_argument(
        "--kind",
        default="mixed",
        choices=("mixed", "description"),
        help="short answers as in the examination with one description, or sentences only",
    )
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    own = clients(options.clients, options.questions, options.kind)
    figures: dict[str, dict[str, object]] = {}
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        _, _, expected = asyncio.run(run(cloud.target, own, together=False))
    equal = True
    for mode, settings in MODES.items():
        with CloudProcess(BUNDLE, CHECKPOINT, "--http_port=0", *settings) as cloud:
            seconds, times, answers = asyncio.run(run(cloud.target, own, together=True))
            equal = equal and answers == expected
            figures[mode] = {
                "questions_per_second": round(len(times) / seconds, 1),
                "p50_ms": round(1e3 * statistics.median(times)),
                "p95_ms": round(1e3 * statistics.quantiles(times, n=20)[-1]),
                "answers_equal_to_sequential": answers == expected,
                "answers_in_a_forward_pass": histogram(cloud.http, "engine_batch_size"),
                "payloads_in_a_decode_pass": histogram(cloud.http, "decode_batch_size"),
            }
        print(f"{mode}: {json.dumps(figures[mode])}")
    rates = [float(str(own["questions_per_second"])) for own in figures.values()]
    print(f"{len(own)} clients x {options.questions} questions: {rates[1] / rates[0]:.2f} times")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
