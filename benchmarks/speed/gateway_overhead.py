"""What the gateway adds to a question: the same questions through it and through the SDK.

Both ask one cloud process, in turn and about the same picture, which the cloud holds after the
first question. The gateway is asked over one warm connection: by a bare HTTP client, which is what
it adds itself, and by OpenAI's client, whose own work comes on top. Compared are medians, of the
first piece of text and of the whole answer. The cloud, which is another machine in use, has a core
of its own where there are two or more.
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

PICTURE = Path(__file__).parents[2] / "examples" / "scene.png"
QUESTION = "How many objects are there?"
MODEL = "reference"
TARGET_MS = 5.0
WARM_UP = 10

Seconds = tuple[float, float]
"""To the first piece of text, and to the last."""


def main() -> int:
    """Print the table; 1 if the gateway itself misses the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    for_cloud, *others = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        os.sched_setaffinity(0, {for_cloud})  # inherited by the cloud
        cloud = stack.enter_context(CloudProcess(BUNDLE, CHECKPOINT))
        os.sched_setaffinity(0, others or {for_cloud})
        options = (f"--model_name={MODEL}", "--log_level=warning")
        gateway = stack.enter_context(GatewayProcess(cloud.target, BUNDLE, *options))
        sdk = stack.enter_context(EdgeClient(cloud.target, BUNDLE))
        url = f"{gateway.url}/v1"
        client = stack.enter_context(OpenAI(base_url=url, api_key="any", max_retries=0))
        ways = {
            "SDK": _through_sdk(sdk),
            "gateway": _through_gateway(gateway.port),
            "OpenAI's client": _through_openai(client),
        }
        medians = _medians(ways, rounds)
    print(f"reference model, one machine for all, {rounds} questions each, medians in ms")
    print(f"{'':>16} {'first text':>11} {'whole':>8} {'added':>13}")
    own = medians["SDK"]
    for name, (first, whole) in medians.items():
        added = f"{first - own[0]:6.2f} {whole - own[1]:6.2f}" if name != "SDK" else ""
        print(f"{name:>16} {first:>11.2f} {whole:>8.2f} {added:>13}")
    missed = max(a - b for a, b in zip(medians["gateway"], own, strict=True)) > TARGET_MS
    print(f"target of the gateway: {TARGET_MS:g} at most; {'missed' if missed else 'met'}")
    return 1 if missed else 0


def _medians(ways: dict[str, Callable[[], Seconds]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds by way; each round asks every way, in changing order."""
    for _ in range(WARM_UP):
        for ask in ways.values():
            ask()
    seen: dict[str, list[Seconds]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seen[name].append(ways[name]())
    return {
        name: [1e3 * statistics.median(column) for column in zip(*times, strict=True)]
        for name, times in seen.items()
    }


def _through_sdk(client: EdgeClient) -> Callable[[], Seconds]:
    data = PICTURE.read_bytes()

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
        with connection.getresponse() as response:
            for line in response:
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
    url = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": QUESTION}, image]}]


if __name__ == "__main__":
    sys.exit(main())
