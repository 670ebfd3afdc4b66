"""vLLM in this process, with the reference model: started once, in a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from aligned_vq.answers import Sampling, TokenChunk
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.engines import prepare
from cloud_server.config import CloudConfig
from cloud_server.decode.image_decoder import EngineImage
from cloud_server.engine.base import EngineRequest
from cloud_server.operations.metrics import Metrics
from cloud_server.serving_backends import ServingBackend, load, make_backend
from edge_client.encoder import EdgeEncoder

QUESTIONS = ("Describe the picture.", "How many objects are there?", "What color is the cross?")

Run = Callable[[Any], Any]


def backend(engine: Any) -> ServingBackend:
    """The service's backend, over the shipped bundle."""
    more = {"enforce_eager": True} if engine == "vllm" else {}
    config = CloudConfig(BUNDLE, str(CHECKPOINT), engine=engine, vllm=more, parallel_answers=8)
    return make_backend(load(config), config, Metrics())


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs coroutines in one loop."""
    prepare()
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def vllm(run: Run) -> Iterator[ServingBackend]:
    made = backend("vllm")
    run(made.engine.warm_up())
    yield made
    run(made.engine.close())


@pytest.fixture(scope="session")
def images() -> dict[str, list[Tensor]]:
    """Three test pictures for each engine: indices for vLLM, embeddings for transformers."""
    encoder = EdgeEncoder(BUNDLE)
    payloads = [encoder.encode(image.image).payload for image in exam_images(24)][:3]
    found = {}
    for engine in ("vllm", "transformers"):
        decoded = backend(engine).decode_many(payloads)
        found[engine] = [own.engine_input for own in decoded if isinstance(own, EngineImage)]
    return found


async def told(
    own: ServingBackend,
    question: str,
    image: Any,
    request_id: str,
    sampling: Sampling | None = None,
) -> list[TokenChunk]:
    """An answer's chunks; the image is kept under the request's id."""
    prompt = own.prompts.build(question)
    key = request_id.encode() if isinstance(image, Tensor) else b""
    asked = EngineRequest(request_id, prompt, image, sampling or Sampling(48), key)
    return [chunk async for chunk in own.engine.generate(asked)]


def tokens(chunks: list[TokenChunk]) -> list[int]:
    """All of an answer's."""
    return [token for chunk in chunks for token in chunk.token_ids]


def blank() -> Tensor:
    """An image of which nothing is known."""
    return torch.full((577, 5), -1, dtype=torch.int16)


@pytest.fixture(autouse=True, scope="module")
def _private_logs(private_logs: None) -> None:
    """Of every module here."""
