"""Good questions beside hostile connections: the worst wait, what was lost, memory and log.

One service, its HTTP face and a gateway; the attacker is a process of its own, and comes from the
same address as the good clients. Those ask all along, over a connection that stays and over new
ones. Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.load import LoadClient, ask, clients
from benchmarks.harness.processes import CloudProcess, GatewayProcess, ServerProcess
from protos.alignedvq.v1 import inference_pb2_grpc as rpc

MOST_SECONDS = 2.0
MOST_MEMORY = 1.2
MOST_LOG_BYTES = 100_000
SETTLE_SECONDS = 6.0
PAUSE_SECONDS = 0.05
QUESTION_SECONDS = 60.0
FEW_DESCRIPTORS = 1024
MODEL = "good"
NO_POOL = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True)
class Attack:
    """One hostile mode against one port: `grpc`, `http` or `gateway`."""

    mode: str
    port: str
    connections: int
    path: str = "/alignedvq.v1.SplitInference/Ask"

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.mode} {self.path} x{self.connections} on {self.port}"


ATTACKS = {
    "rapid_reset": (
        Attack("rapid_reset", "grpc", 4),
        Attack("rapid_reset", "grpc", 4, "/nowhere/At"),
    ),
    "silent_streams": (Attack("silent_streams", "grpc", 120),),
    "trickle": (Attack("trickle", "grpc", 200),),
    "idle": tuple(
        Attack(mode, port, 1500)
        for port, modes in {
            "grpc": ("idle", "preface", "settings"),
            "http": ("idle", "half_head"),
            "gateway": ("idle", "half_head"),
        }.items()
        for mode in modes
    ),
}


@dataclass
class Good:
    """What good clients saw."""

    times: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    async def time(self, asking: Awaitable[Any]) -> None:
        """Take in one question."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                await asking
        except (grpc.aio.AioRpcError, OSError, TimeoutError) as error:
            words = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            self.lost.append(f"{type(error).__name__}: {words}")
        self.times.append(time.perf_counter() - started)

    def figures(self) -> dict[str, Any]:
        """For the table."""
        return {
            "questions": len(self.times),
            "lost": len(self.lost),
            "worst_s": round(max(self.times, default=0.0), 2),
            "reasons": sorted(set(self.lost))[:3],
        }


class Services:
    """A cloud with its HTTP face and a gateway before it."""

    def __init__(self, descriptors: int | None, options: list[str]) -> None:
        by = ("prlimit", f"--nofile={descriptors}:{descriptors}") if descriptors else ()
        self._cloud = CloudProcess(BUNDLE, CHECKPOINT, "--http_port=0", *options).launched_by(*by)
        self._by = by

    def __enter__(self) -> Services:
        self._cloud.__enter__()
        self._gateway = (
            GatewayProcess(self._cloud.target, BUNDLE, f"--model_name={MODEL}")
            .launched_by(*self._by)
            .__enter__()
        )
        self.targets = {
            "grpc": self._cloud.target,
            "http": self._cloud.http.removeprefix("http://"),
            "gateway": self._gateway.target,
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._gateway.__exit__()
        self._cloud.__exit__()

    def attacked(self, port: str) -> ServerProcess:
        """The process behind a port."""
        return self._gateway if port == "gateway" else self._cloud


async def good_clients(
    services: Services, own: LoadClient, ended: asyncio.Event
) -> dict[str, Good]:
    """Ask everybody until the event."""
    found = {"warm": Good(), "new": Good(), "http": Good(), "gateway": Good()}
    target = services.targets["grpc"]

    async def new() -> None:
        async with grpc.aio.insecure_channel(target, NO_POOL) as channel:
            await ask(rpc.SplitInferenceStub(channel), own, own.questions[0], False)

    async def repeat(good: Good, once: Callable[[], Awaitable[Any]]) -> None:
        while not ended.is_set():
            await good.time(once())
            await asyncio.sleep(PAUSE_SECONDS)

    async with grpc.aio.insecure_channel(target, NO_POOL) as channel:
        stub: Any = rpc.SplitInferenceStub(channel)
        await asyncio.gather(
            repeat(found["warm"], lambda: ask(stub, own, own.questions[0], False)),
            repeat(found["new"], new),
            repeat(found["http"], lambda: _fetch(f"http://{services.targets['http']}/healthz")),
            repeat(found["gateway"], lambda: _chat(services.targets["gateway"])),
        )
    return found


async def _fetch(url: str, body: bytes | None = None) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})

    def fetch() -> None:
        with urllib.request.urlopen(request, timeout=QUESTION_SECONDS) as response:
            response.read()

    await asyncio.to_thread(fetch)


async def _chat(target: str) -> None:
    messages = [{"role": "user", "content": "How many stars are there?"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 4}
    await _fetch(f"http://{target}/v1/chat/completions", json.dumps(body).encode())


async def measure(
    services: Services, own: LoadClient, attack: Attack | None, seconds: float, port: str = "grpc"
) -> dict[str, Any]:
    """One attack (None: nobody attacks) beside good clients."""
    attacked = services.attacked(attack.port if attack else port)
    before, logged = attacked.resident_bytes(), len(attacked.log)
    ended = asyncio.Event()
    asking = asyncio.create_task(good_clients(services, own, ended))
    told = ""
    if attack is not None:
        hostile = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.attacks.peers.hostile_peer", attack.mode),
            *(services.targets[attack.port], f"--connections={attack.connections}"),
            *(f"--seconds={seconds}", f"--path={attack.path}"),
            stdout=asyncio.subprocess.PIPE,
        )
        told = (await hostile.communicate())[0].decode().splitlines()[-1]
    else:
        await asyncio.sleep(seconds)
    ended.set()
    good = await asking
    await asyncio.sleep(SETTLE_SECONDS)
    after = attacked.resident_bytes()
    answered = attacked.log[logged:].count("question answered after")
    return {
        "attack": attack.name if attack else "none",
        "sent": told,
        "memory_before_mb": before // 10**6,
        "memory_ratio": round(after / before, 2),
        "log_bytes": len(attacked.log) - logged - 90 * answered,
        **{kind: each.figures() for kind, each in good.items()},
    }


def missed(found: dict[str, Any]) -> list[str]:
    """Targets that one attack's figures miss."""
    kinds = [found[kind] for kind in ("warm", "new", "http", "gateway")]
    worst = max(kind["worst_s"] for kind in kinds)
    return [
        words
        for held, words in (
            (worst <= MOST_SECONDS, f"worst good question {worst} s, target {MOST_SECONDS:g} s"),
            (not any(kind["lost"] for kind in kinds), "good questions lost, target 0"),
            (
                found["memory_ratio"] <= MOST_MEMORY,
                f"memory x{found['memory_ratio']}, target x{MOST_MEMORY:g}",
            ),
            (
                found["log_bytes"] <= MOST_LOG_BYTES,
                f"log of {found['log_bytes']} bytes, target {MOST_LOG_BYTES}",
            ),
        )
        if not held
    ]


async def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All attacks asked for, each against services of its own."""
    own = clients(1, 4)[0]
    found = []
    for kind in options.modes:
        for attack in ATTACKS[kind]:
            with Services(options.descriptors, options.cloud) as services:
                with suppress(grpc.aio.AioRpcError):
                    async with grpc.aio.insecure_channel(services.targets["grpc"]) as channel:
                        await ask(rpc.SplitInferenceStub(channel), own, own.questions[0], True)
                # Memory is what it stays at once warm, and the machine may be busy by itself.
                calm = await measure(services, own, None, 6)
                figures = await measure(services, own, attack, options.seconds)
            kinds = ("warm", "new", "http", "gateway")
            figures["calm_worst_s"] = max(calm[kind]["worst_s"] for kind in kinds)
            figures["missed"] = missed(figures)
            print(json.dumps(figures), flush=True)
            found.append(figures)
    return found


def main() -> int:
    """Print the figures; exits with 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", nargs="+", choices=ATTACKS, default=[*ATTACKS])
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--descriptors", type=int, help="of each service, e.g. 1024")
    parser.add_argument("--cloud", nargs="*", default=[], help="further options of the service")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = asyncio.run(run(options))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if any(figures["missed"] for figures in found) else 0


if __name__ == "__main__":
    sys.exit(main())
