"""A load generator over gRPC: many concurrent clients, each with questions about one image.

The first question of a client carries the payload; later ones name the image by its digest.
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
    """The image of one client as a payload and as indices, and its questions."""

    payload: Payload
    encoded: Encoded
    questions: list[str]


def clients(count: int, questions: int, kind: str = "mixed") -> list[LoadClient]:
    """Clients with images of the test split and questions of one kind ("mixed": of every kind).

    An image with fewer than `questions` questions repeats them.
    """
    bundle = open_edge_bundle(BUNDLE)
    # `exam_images` counts questions; an image has at most eight.
    images = list(exam_images(count * 8))[:count]
    pixels = pixel_batches(LlavaCheckpoint(CHECKPOINT), (image.image for image in images))
    features, residual = features_at(bundle.prefix, pixels)  # [M, N, D] each
    load_clients = []
    for image, image_features, image_residual in zip(images, features, residual, strict=True):
        texts = [question.text for question in image.questions if kind in ("mixed", question.kind)]
        repeated = [texts[number % len(texts)] for number in range(questions)]
        encoded = bundle.codec.encode(image_features, image_residual)
        load_clients.append(LoadClient(bundle.codec.spec.packed(encoded), encoded, repeated))
    return load_clients


async def ask(
    stub: rpc.SplitInferenceAsyncStub, client: LoadClient, text: str, first: bool
) -> list[int]:
    """Ask one question and return the token ids of the answer.

    Args:
        stub: of the service.
        client: its image.
        text: the question.
        first: send the payload instead of its digest.
    """
    digest = b"" if first else client.payload.digest()
    question = Question("", client.payload.manifest_digest, text, Sampling(MAX_TOKENS), digest)
    call = stub.Ask()
    parts = convert.payload_to_parts(client.payload)
    # The first part travels in the message of the question.
    first_part = next(parts) if first else None
    await call.write(pb.AskRequest(open=convert.question_to_proto(question, first_part)))
    if first:
        await _send(call, parts)
    # The call stays open for writing: the service may still request the payload.
    tokens: list[int] = []
    async for response in call:
        if convert.is_payload_needed(response):  # the service no longer holds the image
            await _send(call, convert.payload_to_parts(client.payload))
        else:
            tokens += convert.chunk_from_response(response).token_ids
    return tokens


async def _send(call: Any, parts: Iterable[pb.PayloadPart]) -> None:
    for part in parts:
        await call.write(pb.AskRequest(payload=part))


async def run(
    target: str, load: list[LoadClient], together: bool
) -> tuple[float, list[float], list[list[list[int]]]]:
    """Ask all questions, with all clients at once (`together`) or one client after the other.

    Returns the total seconds, the seconds of each question in order of completion, and the token
    ids of each answer by client.
    """
    times: list[float] = []
    async with grpc.aio.insecure_channel(target) as channel:
        stub: rpc.SplitInferenceAsyncStub = rpc.SplitInferenceStub(channel)
        total = sum(len(client.questions) for client in load)
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
                answers = await asyncio.gather(*map(talk, load))
            else:
                answers = [await talk(client) for client in load]
            return time.perf_counter() - started, times, list(answers)
