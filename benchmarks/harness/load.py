"""Many clients at once, over real gRPC: each asks about a picture of its own, whose payload goes
with its first question and whose digest with the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from tqdm import tqdm

from aligned_vq.answers import Sampling
from aligned_vq.calibration.codec import features_at, pixel_batches
from aligned_vq.codec.bundle import open_edge_bundle
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.types import Encoded, Payload
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from protos.messages import Question

MAX_TOKENS = 48


@dataclass(frozen=True)
class LoadClient:
    """A picture and what is asked about it."""

    payload: Payload
    encoded: Encoded
    questions: list[str]


def clients(count: int, questions: int, kind: str = "mixed") -> list[LoadClient]:
    """Test pictures with their questions of a kind, asked again where they are too few."""
    bundle = open_edge_bundle(BUNDLE)
    images = list(exam_images(count * 8))[:count]
    pixels = pixel_batches(LlavaCheckpoint(CHECKPOINT), (image.image for image in images))
    features, residual = features_at(bundle.prefix, pixels)
    found = []
    for image, own, rest in zip(images, features, residual, strict=True):
        texts = [question.text for question in image.questions if kind in ("mixed", question.kind)]
        asked = [texts[number % len(texts)] for number in range(questions)]
        encoded = bundle.codec.encode(own, rest)
        found.append(LoadClient(bundle.codec.spec.packed(encoded), encoded, asked))
    return found


async def ask(
    stub: rpc.SplitInferenceAsyncStub, client: LoadClient, text: str, first: bool
) -> list[int]:
    """One question; returns the answer's token ids."""
    digest = b"" if first else client.payload.digest()
    question = Question("", client.payload.manifest_digest, text, Sampling(MAX_TOKENS), digest)
    call = stub.Ask()
    parts = convert.payload_to_parts(client.payload)
    own = next(parts) if first else None
    await call.write(pb.AskRequest(open=convert.question_to_proto(question, own)))
    if first:
        await _send(call, parts)
    tokens: list[int] = []
    async for response in call:
        if convert.is_payload_needed(response):
            await _send(call, convert.payload_to_parts(client.payload))
        else:
            tokens += convert.chunk_from_response(response).token_ids
    return tokens


async def _send(call: Any, parts: Iterable[pb.PayloadPart]) -> None:
    for part in parts:
        await call.write(pb.AskRequest(payload=part))


async def run(
    target: str, own: list[LoadClient], together: bool
) -> tuple[float, list[float], list[list[list[int]]]]:
    """Seconds in all, seconds of each question, and answers by client."""
    times: list[float] = []
    async with grpc.aio.insecure_channel(target) as channel:
        stub: rpc.SplitInferenceAsyncStub = rpc.SplitInferenceStub(channel)
        total = sum(len(client.questions) for client in own)
        with tqdm(total=total, desc="questions", leave=False) as bar:

            async def talk(client: LoadClient) -> list[list[int]]:
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
