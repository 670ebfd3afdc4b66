"""Reference model: token ids of the vLLM engine against the transformers engine's, greedy.

Both serve the shipped bundle from a process of their own, over gRPC; the same questions about the
same test pictures go to each. Then vLLM is handed pictures and embeddings itself, all of which it
must refuse and survive. Runs in vLLM's environment (`make vllm`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from aligned_vq.answers import Sampling
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.errors import EngineError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.engines import IN_PROCESS, prepare
from benchmarks.harness.processes import CloudProcess
from cloud_server.config import CloudConfig
from cloud_server.engine.base import EngineRequest
from cloud_server.operations.metrics import Metrics
from cloud_server.serving_backends import load, make_backend
from edge_client import EdgeClient

MAX_TOKENS = 64


def answers(questions: int, *options: str) -> list[tuple[int, ...]]:
    """Token ids of the answers that a service with these options gives."""
    asked = [
        (image.image, question.text)
        for image in exam_images(questions)
        for question in image.questions
    ][:questions]
    with (
        CloudProcess(BUNDLE, CHECKPOINT, *options) as cloud,
        EdgeClient(cloud.target, BUNDLE) as client,
    ):
        return [
            client.ask(picture, text, max_tokens=MAX_TOKENS).details.token_ids
            for picture, text in tqdm(asked, desc=options[0] if options else "transformers")
        ]


async def refused() -> dict[str, bool]:
    """What an engine says no to, and whether it still answers after that."""
    config = CloudConfig(BUNDLE, str(CHECKPOINT), engine="vllm", vllm={"enforce_eager": True})
    backend = make_backend(load(config), config, Metrics())
    picture = next(iter(exam_images(1))).image
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB"))).permute(2, 0, 1)
    images: dict[str, Any] = {
        "picture": picture,
        "pixels, uint8": pixels,
        "pixels, float32": pixels.float(),
        "embeddings": torch.zeros(1, 576, 192),
        "indices of another shape": torch.zeros(100, 5, dtype=torch.int16),
        "an index out of range": torch.full((577, 5), 4096, dtype=torch.int16),
    }
    prompt = backend.prompts.build("Describe the picture.")
    found = {}
    await backend.engine.warm_up()
    try:
        for name, image in images.items():
            request = EngineRequest(name, prompt, image, Sampling(max_tokens=4))
            try:
                async for _ in backend.engine.generate(request):
                    pass
                found[name] = False
            except EngineError:
                found[name] = backend.engine.healthy
        blank = torch.full((577, 5), -1, dtype=torch.int16)
        request = EngineRequest("after", prompt, blank, Sampling(max_tokens=4))
        found["answers after that"] = bool([c async for c in backend.engine.generate(request)])
    finally:
        await backend.engine.close()
    return found


def main() -> int:
    """Print one JSON object; exits with 1 if an answer differs or anything was let in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    prepare()
    expected = answers(options.questions)
    found = answers(options.questions, *IN_PROCESS)
    equal = sum(own == other for own, other in zip(found, expected, strict=True))
    no = asyncio.run(refused())
    figures = {
        "questions": len(expected),
        "tokens": sum(map(len, expected)),
        "identical": equal,
        "refused": no,
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, text + "\n")
    return 0 if equal == len(expected) and all(no.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
