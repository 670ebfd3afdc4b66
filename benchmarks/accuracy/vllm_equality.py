"""Reference model: greedy token ids of the vLLM engine against those of the transformers engine.

Each engine serves the shipped bundle in a separate process, over gRPC, and gets the same questions
about the same test images. Then the vLLM engine gets images and embeddings directly; it has to
refuse all of them and to answer afterwards. Runs in vLLM's environment (`make vllm`).
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
    """Token ids of the answers of a service with these options."""
    cases = [
        (image.image, question.text)
        for image in exam_images(questions)
        for question in image.questions
    ][:questions]
    with (
        CloudProcess(BUNDLE, CHECKPOINT, *options) as cloud,
        EdgeClient(cloud.target, BUNDLE) as client,
    ):
        return [
            client.ask(image, text, max_tokens=MAX_TOKENS).details.token_ids
            for image, text in tqdm(cases, desc=options[0] if options else "transformers")
        ]


async def refusals() -> dict[str, bool]:
    """Whether the engine refused each invalid input and stayed healthy, and answers afterwards."""
    config = CloudConfig(BUNDLE, str(CHECKPOINT), engine="vllm", vllm={"enforce_eager": True})
    backend = make_backend(load(config), config, Metrics())
    scene = next(iter(exam_images(1))).image
    # [3, H, W], the order of transformers' image processors.
    pixels = torch.from_numpy(np.asarray(scene.convert("RGB"))).permute(2, 0, 1)
    images: dict[str, Any] = {
        "picture": scene,
        "pixels, uint8": pixels,
        "pixels, float32": pixels.float(),
        "embeddings": torch.zeros(1, 576, 192),
        "indices of another shape": torch.zeros(100, 5, dtype=torch.int16),
        "an index out of range": torch.full((577, 5), 4096, dtype=torch.int16),
    }
    prompt = backend.prompts.build("Describe the picture.")
    results = {}
    await backend.engine.warm_up()
    try:
        for name, image in images.items():
            request = EngineRequest(name, prompt, image, Sampling(max_tokens=4))
            try:
                async for _ in backend.engine.generate(request):
                    pass
                results[name] = False
            except EngineError:
                # A refusal that ends the engine does not count.
                results[name] = backend.engine.healthy
        # -1 marks tokens that a stage leaves out: valid indices of an image without content.
        blank = torch.full((577, 5), -1, dtype=torch.int16)
        request = EngineRequest("after", prompt, blank, Sampling(max_tokens=4))
        results["answers after that"] = bool([c async for c in backend.engine.generate(request)])
    finally:
        await backend.engine.close()
    return results


def main() -> int:
    """Print one JSON object; exits with 1 if an answer differs or an invalid input was accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    # Before any process or import of vLLM, which reads the environment.
    prepare()
    expected = answers(options.questions)
    actual = answers(options.questions, *IN_PROCESS)
    equal = sum(ids == expected_ids for ids, expected_ids in zip(actual, expected, strict=True))
    refused = asyncio.run(refusals())
    figures = {
        "questions": len(expected),
        "tokens": sum(map(len, expected)),
        "identical": equal,
        "refused": refused,
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, text + "\n")
    return 0 if equal == len(expected) and all(refused.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
