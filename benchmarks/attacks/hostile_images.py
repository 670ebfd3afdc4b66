"""Hostile images against a gateway and against a client's `compress`, beside good questions.

Every image is first sent alone, to measure its cost, then several at a time in shuffled order.
Meanwhile good clients ask with and without images, a separate process probes the health endpoint 20
times a second, and the memory (PSS of the gateway and its children) is sampled. In the middle of a
last round the gateway gets SIGTERM. All image formats are allowed, because the default ones would
reject a third of the images by their first bytes.

    python -m benchmarks.attacks.hostile_images --seed 1 --at_once 6 --out images.json
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import signal
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aligned_vq.errors import AlignedVQError
from aligned_vq.files.atomic_file import write_json
from aligned_vq.images.formats import FORMATS
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.attacks.peers.gateway_probes import (
    PeriodicProbe,
    chat_body,
    memory_bytes,
    process_tree,
    timed_request,
)
from benchmarks.attacks.peers.health_probe import HealthProbe
from benchmarks.attacks.peers.hostile_files import hostile_files
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from edge_client import EdgeClient, EdgeConfig

MODEL = "reference"
CHAT = "/v1/chat/completions"
IMAGE = Path(__file__).parents[2] / "examples" / "scene.png"
TARGETS = {
    "slowest image, alone, s": 3.0,
    "slowest image, several at a time, s": 3.0,
    "slowest compress, s": 3.0,
    "health, slowest, ms": 100.0,
    "memory to idle": 1.5,
    "text questions lost": 0,
    "seconds to end after SIGTERM": 10.0,
    "processes left": 0,
}
"""Upper limits."""


def main() -> int:
    """Print both tables; exits with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at_once", type=int, default=6, help="hostile requests at a time")
    parser.add_argument("--rounds", type=int, default=2, help="of all images, several at a time")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    options = parser.parse_args()
    files = dict(hostile_files(options.seed))
    bodies = {name: _body(data) for name, data in files.items()}
    figures: dict[str, Any] = {"images": len(files)}
    with ExitStack() as stack:
        cloud = stack.enter_context(CloudProcess(BUNDLE, CHECKPOINT))
        formats = json.dumps(FORMATS)
        gateway = stack.enter_context(
            GatewayProcess(
                cloud.target,
                BUNDLE,
                *(f"--model_name={MODEL}", "--log_level=warning", f"--image_formats={formats}"),
            )
        )
        idle = _idle(gateway)
        alone = {name: timed_request(gateway.port, CHAT, body) for name, body in bodies.items()}
        figures |= _attack(gateway, bodies, options, idle)
        figures |= _stop(gateway, [*bodies.values()])
        compressed = _compress_all(cloud.target, files)
    figures["slowest image, alone, s"] = max(seconds for _, seconds, _ in alone.values())
    figures["slowest compress, s"] = max(seconds for seconds, _ in compressed.values())
    print(f"{'image':>42} {'bytes':>9} {'gateway':>26} {'s':>6} {'compress, s':>11}")
    for name, (status, seconds, code) in alone.items():
        outcome = code or str(status)
        size, compress_seconds = len(files[name]), compressed[name][0]
        print(f"{name:>42} {size:>9} {outcome:>26} {seconds:>6.2f} {compress_seconds:>11.2f}")
    # Not `>`, which NaN would pass.
    missed = [name for name, limit in TARGETS.items() if not figures[name] <= limit]
    for name, value in figures.items():
        target = f" (at most {TARGETS[name]:g})" if name in TARGETS else ""
        print(f"{name}: {value:.4g}{target}{' MISSED' if name in missed else ''}")
    if options.out:
        write_json(options.out, {"figures": figures, "alone": alone})
    return 1 if missed else 0


def _body(data: bytes) -> bytes:
    """The request body of a question about a hostile image."""
    # Declared as PNG, whatever it is: the bytes have to decide.
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": parts}]
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 2}).encode()


def _idle(gateway: GatewayProcess) -> dict[str, float]:
    """Memory in bytes, and slowest health answer and lag in seconds, after some good questions."""
    good = chat_body(MODEL, "How many objects are there?", IMAGE.read_bytes())
    for _ in range(20):
        status, _, code = timed_request(gateway.port, CHAT, good)
        if status != 200:
            raise RuntimeError(
                f"expected status 200 for a good question, got {status} {code}; the gateway's log: "
                f"{gateway.log}"
            )
    with HealthProbe(gateway.port) as probe:
        time.sleep(5)
    return {
        "memory": memory_bytes(gateway.process.pid),
        "health": max(probe.health.answers),
        "lag": max(probe.health.lags),
    }


def _attack(
    gateway: GatewayProcess,
    bodies: dict[str, bytes],
    options: argparse.Namespace,
    idle: dict[str, float],
) -> dict[str, Any]:
    """Send the images several at a time beside good questions; returns the figures."""
    text = chat_body(MODEL, "What can you see?")
    image = chat_body(MODEL, "How many objects are there?", IMAGE.read_bytes())
    # Shuffled, so that expensive images meet in different combinations.
    order = [*bodies.values()] * options.rounds
    random.Random(options.seed).shuffle(order)
    port, pid = gateway.port, gateway.process.pid
    with (
        PeriodicProbe(lambda: timed_request(port, CHAT, text), 0.05) as texts,
        PeriodicProbe(lambda: timed_request(port, CHAT, image), 0.05) as images,
        HealthProbe(port) as probe,
        PeriodicProbe(lambda: memory_bytes(pid), 0.05) as memory,
        ThreadPoolExecutor(options.at_once) as pool,
    ):
        hostile = [*pool.map(lambda body: timed_request(port, CHAT, body), order)]
    health = probe.health
    return {
        "slowest image, several at a time, s": max(seconds for _, seconds, _ in hostile),
        "of those that are refused, s": max(
            seconds for status, seconds, _ in hostile if status != 200
        ),
        "images without an answer": sum(status == 0 for status, _, _ in hostile),
        "health, median, ms": 1e3 * statistics.median(health.answers),
        "health, 99th percentile, ms": 1e3 * statistics.quantiles(health.answers, n=100)[-1],
        "health, slowest, ms": 1e3 * max(health.answers),
        "health, slowest when idle, ms": 1e3 * idle["health"],
        "this machine's own lag, slowest, ms": 1e3 * max(health.lags),
        "memory idle, MB": idle["memory"] / 1e6,
        "memory at most, MB": max(memory.samples) / 1e6,
        "memory to idle": max(memory.samples) / idle["memory"],
        "text questions": len(texts.samples),
        "text questions lost": sum(status != 200 for status, _, _ in texts.samples),
        "text question, slowest, s": max(seconds for _, seconds, _ in texts.samples),
        "image questions": len(images.samples),
        "image questions lost": sum(status != 200 for status, _, _ in images.samples),
        "image question, slowest, s": max(seconds for _, seconds, _ in images.samples),
    }


def _stop(gateway: GatewayProcess, bodies: list[bytes]) -> dict[str, Any]:
    """Send SIGTERM in the middle of an attack; seconds to the end, and processes that remain."""
    with ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(timed_request, gateway.port, CHAT, body) for body in bodies[:8]]
        # Until decoding is under way.
        time.sleep(0.5)
        # Before the signal: the children of an ended process cannot be looked up.
        processes = process_tree(gateway.process.pid)
        started = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(timeout=120)
        seconds = time.monotonic() - started
        for request in requests:
            request.result()
    time.sleep(0.5)
    left = [pid for pid in processes if Path(f"/proc/{pid}").exists()]
    return {"seconds to end after SIGTERM": seconds, "processes left": len(left)}


def _compress_all(target: str, files: dict[str, bytes]) -> dict[str, tuple[float, str]]:
    """Seconds and outcome of compressing each image as `edge-client compress` does, by name."""
    config = EdgeConfig(image_formats=FORMATS, isolate_images=True)
    results = {}
    with EdgeClient(target, BUNDLE, config) as client:
        # Warms up, so that the first hostile image does not pay for it.
        client.compress(IMAGE)
        for name, data in files.items():
            started, outcome = time.monotonic(), "done"
            try:
                client.compress(data)
            except AlignedVQError as error:
                outcome = str(error)
            results[name] = (time.monotonic() - started, outcome)
    return results


if __name__ == "__main__":
    sys.exit(main())
