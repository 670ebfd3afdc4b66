"""What the gateway adds to a question: the same question through the gateway and through the SDK.

Both ask one cloud process, alternately and about the same image, which the cloud caches. The
gateway is reached over one warm connection, by a bare HTTP client, which shows the gateway's part,
and by OpenAI's client, whose work comes on top. Compares the medians of the time to the first chunk
of text and to the whole answer. On a machine with two or more cores the cloud has one to itself,
since it is a separate machine in production.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from openai import OpenAI

from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from edge_client import EdgeClient

IMAGE = Path(__file__).parents[2] / "examples" / "scene.png"
QUESTION = "How many objects are there?"
MODEL = "reference"
TARGET_MS = 5.0
WARM_UP = 10

Seconds = tuple[float, float]
"""Time to the first and to the last chunk of text."""


def main() -> int:
    """Print the table; exits with 1 if the gateway misses the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    cloud_core, *others = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        os.sched_setaffinity(0, {cloud_core})  # inherited by the cloud process
        cloud = stack.enter_context(CloudProcess(BUNDLE, CHECKPOINT))
        os.sched_setaffinity(0, others or {cloud_core})
        options = (f"--model_name={MODEL}", "--log_level=warning")
        gateway = stack.enter_context(GatewayProcess(cloud.target, BUNDLE, *options))
        sdk = stack.enter_context(EdgeClient(cloud.target, BUNDLE))
        url = f"{gateway.url}/v1"
        client = stack.enter_context(OpenAI(base_url=url, api_key="any", max_retries=0))
        paths = {
            "SDK": _through_sdk(sdk),
            "gateway": _through_gateway(gateway.port),
            "OpenAI's client": _through_openai(client),
        }
        medians = _medians(paths, rounds)
    print(f"reference model, one machine for all, {rounds} questions each, medians in ms")
    print(f"{'':>16} {'first text':>11} {'whole':>8} {'added':>13}")
    sdk_ms = medians["SDK"]
    for name, (first, whole) in medians.items():
        added = f"{first - sdk_ms[0]:6.2f} {whole - sdk_ms[1]:6.2f}" if name != "SDK" else ""
        print(f"{name:>16} {first:>11.2f} {whole:>8.2f} {added:>13}")
    missed = max(a - b for a, b in zip(medians["gateway"], sdk_ms, strict=True)) > TARGET_MS
    print(f"target of the gateway: {TARGET_MS:g} at most; {'missed' if missed else 'met'}")
    return 1 if missed else 0


def _medians(paths: dict[str, Callable[[], Seconds]], rounds: int) -> dict[str, list[float]]:
    """Median milliseconds by path; every round asks over each path, in rotating order."""
    for _ in range(WARM_UP):
        for ask in paths.values():
            ask()
    samples: dict[str, list[Seconds]] = {name: [] for name in paths}
    names = list(paths)
    for number in range(rounds):
        start = number % len(names)
        # Rotated, so that each path is first equally often.
        for name in names[start:] + names[:start]:
            samples[name].append(paths[name]())
    return {
        name: [1e3 * statistics.median(column) for column in zip(*times, strict=True)]
        for name, times in samples.items()
    }


def _through_sdk(client: EdgeClient) -> Callable[[], Seconds]:
    data = IMAGE.read_bytes()

    def ask() -> Seconds:
        started = time.perf_counter()
        with client.stream(data, QUESTION) as stream:
            next(stream)
            first = time.perf_counter() - started
            for _ in stream:
                pass
        return first, time.perf_counter() - started

    return ask


def _through_gateway(port: int) -> Callable[[], Seconds]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps({"model": MODEL, "messages": _messages(), "stream": True}).encode()

    def ask() -> Seconds:
        started = time.perf_counter()
        connection.request(
            "POST", "/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        first = 0.0
        # Read to its end, or the connection could not carry the next request.
        with connection.getresponse() as response:
            for line in response:
                # The first event has the role and empty content; later ones start with content.
                if not first and b'"delta":{"content"' in line:
                    first = time.perf_counter() - started
        return first, time.perf_counter() - started

    return ask


def _through_openai(client: OpenAI) -> Callable[[], Seconds]:
    messages = _messages()

    def ask() -> Seconds:
        started = time.perf_counter()
        first = 0.0
        for chunk in client.chat.completions.create(model=MODEL, messages=messages, stream=True):
            if not first and chunk.choices[0].delta.content:
                first = time.perf_counter() - started
        return first, time.perf_counter() - started

    return ask


def _messages() -> list[Any]:
    url = f"data:image/png;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": QUESTION}, image]}]


if __name__ == "__main__":
    sys.exit(main())
