"""Hostile images against a gateway and against a client's `compress`, beside good questions.

Every image is sent alone, to see what it costs, then several at a time, in shuffled order, while
good clients ask with and without images, health is asked 20 times a second by a process of its own,
and memory is read (PSS of the gateway and its children). In the middle of a last round the gateway
gets SIGTERM. All formats are allowed, as the default ones alone would refuse a third of the images
by their first bytes.

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
from aligned_vq.images.formats import FORMATS
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.attacks.peers.bystanders import (
    Bystander,
    asked,
    family,
    memory_bytes,
    question,
)
from benchmarks.attacks.peers.health_probe import HealthProbe
from benchmarks.attacks.peers.hostile_files import hostile_files
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from edge_client import EdgeClient, EdgeConfig

MODEL = "reference"
CHAT = "/v1/chat/completions"
PICTURE = Path(__file__).parents[2] / "examples" / "scene.png"
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
"""At most."""


def main() -> int:
    """Print both tables; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at_once", type=int, default=6, help="hostile requests at a time")
    parser.add_argument("--rounds", type=int, default=2, help="of all images, several at a time")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    options = parser.parse_args()
    files = dict(hostile_files(options.seed))
    bodies = {name: _body(data) for name, data in files.items()}
    found: dict[str, Any] = {"images": len(files)}
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
        alone = {name: asked(gateway.port, CHAT, body) for name, body in bodies.items()}
        found |= _attack(gateway, bodies, options, idle)
        found |= _stop(gateway, [*bodies.values()])
        compressed = _compressed(cloud.target, files)
    found["slowest image, alone, s"] = max(seconds for _, seconds, _ in alone.values())
    found["slowest compress, s"] = max(seconds for seconds, _ in compressed.values())
    print(f"{'image':>42} {'bytes':>9} {'gateway':>26} {'s':>6} {'compress, s':>11}")
    for name, (status, seconds, code) in alone.items():
        outcome = code or str(status)
        size, own = len(files[name]), compressed[name][0]
        print(f"{name:>42} {size:>9} {outcome:>26} {seconds:>6.2f} {own:>11.2f}")
    missed = [name for name, most in TARGETS.items() if not found[name] <= most]
    for name, value in found.items():
        target = f" (at most {TARGETS[name]:g})" if name in TARGETS else ""
        print(f"{name}: {value:.4g}{target}{' MISSED' if name in missed else ''}")
    if options.out:
        options.out.write_text(json.dumps({"figures": found, "alone": alone}, indent=2))
    return 1 if missed else 0


def _body(data: bytes) -> bytes:
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": parts}]
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 2}).encode()


def _idle(gateway: GatewayProcess) -> dict[str, float]:
    """Memory and health after some good questions."""
    good = question(MODEL, "How many objects are there?", PICTURE.read_bytes())
    for _ in range(20):
        status, _, code = asked(gateway.port, CHAT, good)
        if status != 200:
            raise RuntimeError(f"expected an answer, got {status} {code}; see the gateway")
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
    """Figures of all images at once with everybody else."""
    text = question(MODEL, "What can you see?")
    image = question(MODEL, "How many objects are there?", PICTURE.read_bytes())
    order = [*bodies.values()] * options.rounds
    random.Random(options.seed).shuffle(order)
    port, pid = gateway.port, gateway.process.pid
    with (
        Bystander(lambda: asked(port, CHAT, text), 0.05) as texts,
        Bystander(lambda: asked(port, CHAT, image), 0.05) as images,
        HealthProbe(port) as probe,
        Bystander(lambda: memory_bytes(pid), 0.05) as memory,
        ThreadPoolExecutor(options.at_once) as pool,
    ):
        hostile = [*pool.map(lambda body: asked(port, CHAT, body), order)]
    health = probe.health
    return {
        "slowest image, several at a time, s": max(seconds for _, seconds, _ in hostile),
        "of those that are refused, s": max(own[1] for own in hostile if own[0] != 200),
        "images without an answer": sum(status == 0 for status, _, _ in hostile),
        "health, median, ms": 1e3 * statistics.median(health.answers),
        "health, 99th percentile, ms": 1e3 * statistics.quantiles(health.answers, n=100)[-1],
        "health, slowest, ms": 1e3 * max(health.answers),
        "health, slowest when idle, ms": 1e3 * idle["health"],
        "this machine's own lag, slowest, ms": 1e3 * max(health.lags),
        "memory idle, MB": idle["memory"] / 1e6,
        "memory at most, MB": max(memory.seen) / 1e6,
        "memory to idle": max(memory.seen) / idle["memory"],
        "text questions": len(texts.seen),
        "text questions lost": sum(status != 200 for status, _, _ in texts.seen),
        "text question, slowest, s": max(seconds for _, seconds, _ in texts.seen),
        "image questions": len(images.seen),
        "image questions lost": sum(status != 200 for status, _, _ in images.seen),
        "image question, slowest, s": max(seconds for _, seconds, _ in images.seen),
    }


def _stop(gateway: GatewayProcess, bodies: list[bytes]) -> dict[str, Any]:
    """End it in the middle of the attack."""
    processes = family(gateway.process.pid)
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(asked, gateway.port, CHAT, body) for body in bodies[:8]]
        time.sleep(0.5)
        processes = family(gateway.process.pid)
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(timeout=120)
        seconds = time.monotonic() - began
        for each in sent:
            each.result()
    time.sleep(0.5)
    left = [pid for pid in processes if Path(f"/proc/{pid}").exists()]
    return {"seconds to end after SIGTERM": seconds, "processes left": len(left)}


def _compressed(target: str, files: dict[str, bytes]) -> dict[str, tuple[float, str]]:
    """Seconds and outcome of each image, as `edge-client compress` opens it."""
    config = EdgeConfig(image_formats=FORMATS, isolate_images=True)
    found = {}
    with EdgeClient(target, BUNDLE, config) as client:
        client.compress(PICTURE)
        for name, data in files.items():
            began, outcome = time.monotonic(), "done"
            try:
                client.compress(data)
            except AlignedVQError as error:
                outcome = str(error)
            found[name] = (time.monotonic() - began, outcome)
    return found


if __name__ == "__main__":
    sys.exit(main())
