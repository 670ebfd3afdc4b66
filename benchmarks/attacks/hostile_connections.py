"""Good questions beside hostile connections: slowest answer, lost questions, memory and log.

The targets are one service, its HTTP port and a gateway. The attacker is a separate process with
the same address as the good clients, which ask throughout, over a lasting connection and over new
ones. Exits with 1 if a target is missed.
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

from aligned_vq.files.atomic_file import write_json
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.load import LoadClient, ask, clients
from benchmarks.harness.processes import CloudProcess, GatewayProcess, ServerProcess
from protos.alignedvq.v1 import inference_pb2_grpc as rpc

MAX_SECONDS = 2.0
MAX_MEMORY_RATIO = 1.2
MAX_LOG_BYTES = 100_000
SETTLE_SECONDS = 6.0
PAUSE_SECONDS = 0.05
QUESTION_SECONDS = 60.0
MODEL = "good"
NEW_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
"""Channel options without which gRPC would share one connection between channels."""
CLIENT_KINDS = ("warm", "new", "http", "gateway")


@dataclass(frozen=True)
class Attack:
    """One hostile mode against one port: `grpc`, `http` or `gateway`."""

    mode: str
    port: str
    connections: int
    path: str = "/alignedvq.v1.SplitInference/Ask"

    @property
    def name(self) -> str:
        """Name in the results."""
        return f"{self.mode} {self.path} x{self.connections} on {self.port}"


ATTACKS = {
    "rapid_reset": (
        Attack("rapid_reset", "grpc", 4),
        # An unknown method, whose calls another handler ends.
        Attack("rapid_reset", "grpc", 4, "/nowhere/At"),
    ),
    "silent_streams": (Attack("silent_streams", "grpc", 120),),
    "trickle": (Attack("trickle", "grpc", 200),),
    "idle": tuple(
        # More than a process with 1,024 descriptors can accept.
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
class GoodQuestions:
    """Times and errors of the questions of one good client."""

    times: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    async def time(self, question: Awaitable[Any]) -> None:
        """Await the answer to a question and record it."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                await question
        except (grpc.aio.AioRpcError, OSError, TimeoutError) as error:
            details = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            self.lost.append(f"{type(error).__name__}: {details}")
        # Lost questions count toward the slowest, too.
        self.times.append(time.perf_counter() - started)

    def figures(self) -> dict[str, Any]:
        """Counts and the slowest answer, for the results."""
        return {
            "questions": len(self.times),
            "lost": len(self.lost),
            "worst_s": round(max(self.times, default=0.0), 2),
            "reasons": sorted(set(self.lost))[:3],
        }


class Services:
    """A cloud with its HTTP port and a gateway in front of it; a context manager.

    Args:
        descriptors: limit of file descriptors of each process; None: this process's limit.
        options: further options of the cloud.
    """

    def __init__(self, descriptors: int | None, options: list[str]) -> None:
        limit = ("prlimit", f"--nofile={descriptors}:{descriptors}") if descriptors else ()
        cloud = CloudProcess(BUNDLE, CHECKPOINT, "--http_port=0", *options)
        self._cloud = cloud.launched_by(*limit)
        self._limit = limit

    def __enter__(self) -> Services:
        self._cloud.__enter__()
        self._gateway = (
            GatewayProcess(self._cloud.target, BUNDLE, f"--model_name={MODEL}")
            .launched_by(*self._limit)
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

    def process_of(self, port: str) -> ServerProcess:
        """The process that serves a port."""
        return self._gateway if port == "gateway" else self._cloud


async def good_clients(
    services: Services, client: LoadClient, ended: asyncio.Event
) -> dict[str, GoodQuestions]:
    """Ask over every path until the event: a warm and new connections, HTTP and the gateway."""
    paths = {name: GoodQuestions() for name in CLIENT_KINDS}
    target = services.targets["grpc"]

    async def ask_on_new_connection() -> None:
        async with grpc.aio.insecure_channel(target, NEW_CONNECTION) as channel:
            await ask(rpc.SplitInferenceStub(channel), client, client.questions[0], False)

    async def repeat(name: str, once: Callable[[], Awaitable[Any]]) -> None:
        while not ended.is_set():
            await paths[name].time(once())
            await asyncio.sleep(PAUSE_SECONDS)

    async with grpc.aio.insecure_channel(target, NEW_CONNECTION) as channel:
        stub: Any = rpc.SplitInferenceStub(channel)
        await asyncio.gather(
            repeat("warm", lambda: ask(stub, client, client.questions[0], False)),
            repeat("new", ask_on_new_connection),
            repeat("http", lambda: _fetch(f"http://{services.targets['http']}/healthz")),
            repeat("gateway", lambda: _chat(services.targets["gateway"])),
        )
    return paths


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
    services: Services, client: LoadClient, attack: Attack | None, seconds: float
) -> dict[str, Any]:
    """Figures of good clients beside one attack, or without an attack (None)."""
    attacked = services.process_of(attack.port if attack else "grpc")
    before, log_start = attacked.resident_bytes(), len(attacked.log)
    ended = asyncio.Event()
    good = asyncio.create_task(good_clients(services, client, ended))
    sent = ""
    if attack is not None:
        hostile = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.attacks.peers.hostile_peer", attack.mode),
            *(services.targets[attack.port], f"--connections={attack.connections}"),
            *(f"--seconds={seconds}", f"--path={attack.path}"),
            stdout=asyncio.subprocess.PIPE,
        )
        # The counts; the line before says that the attack has begun.
        sent = (await hostile.communicate())[0].decode().splitlines()[-1]
    else:
        await asyncio.sleep(seconds)
    ended.set()
    paths = await good
    # Closed connections free their memory with a delay.
    await asyncio.sleep(SETTLE_SECONDS)
    after = attacked.resident_bytes()
    # Good questions are logged too, at about 90 bytes each; the target is for what the attack adds.
    answered = attacked.log[log_start:].count("question answered after")
    return {
        "attack": attack.name if attack else "none",
        "sent": sent,
        "memory_before_mb": before // 10**6,
        "memory_ratio": round(after / before, 2),
        "log_bytes": len(attacked.log) - log_start - 90 * answered,
        **{name: questions.figures() for name, questions in paths.items()},
    }


def missed(figures: dict[str, Any]) -> list[str]:
    """Descriptions of the targets that the figures of one attack miss."""
    good = [figures[kind] for kind in CLIENT_KINDS]
    worst_s = max(each["worst_s"] for each in good)
    memory_ratio, log_bytes = figures["memory_ratio"], figures["log_bytes"]
    targets = {
        f"worst good question {worst_s} s, target {MAX_SECONDS:g} s": worst_s <= MAX_SECONDS,
        "good questions lost, target 0": not any(each["lost"] for each in good),
        f"memory x{memory_ratio}, target x{MAX_MEMORY_RATIO:g}": memory_ratio <= MAX_MEMORY_RATIO,
        f"log of {log_bytes} bytes, target {MAX_LOG_BYTES}": log_bytes <= MAX_LOG_BYTES,
    }
    return [target for target, met in targets.items() if not met]


async def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Figures of the selected attacks, each against new services."""
    client = clients(1, 4)[0]
    results = []
    for mode in options.modes:
        for attack in ATTACKS[mode]:
            with Services(options.descriptors, options.cloud) as services:
                # Sends the image once, so that good questions can name it by its digest.
                with suppress(grpc.aio.AioRpcError):
                    async with grpc.aio.insecure_channel(services.targets["grpc"]) as channel:
                        stub: Any = rpc.SplitInferenceStub(channel)
                        await ask(stub, client, client.questions[0], True)
                # Lets memory settle, and shows what the machine's other work costs.
                calm = await measure(services, client, None, 6)
                figures = await measure(services, client, attack, options.seconds)
            figures["calm_worst_s"] = max(calm[kind]["worst_s"] for kind in CLIENT_KINDS)
            figures["missed"] = missed(figures)
            print(json.dumps(figures), flush=True)
            results.append(figures)
    return results


def main() -> int:
    """Print the figures; exits with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", nargs="+", choices=ATTACKS, default=[*ATTACKS])
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--descriptors", type=int, help="limit of each process, e.g. 1024")
    parser.add_argument("--cloud", nargs="*", default=[], help="further options of the service")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    # The attacker and, without --descriptors, the services inherit this limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = asyncio.run(run(options))
    if options.out:
        write_json(options.out, results)
    return 1 if any(figures["missed"] for figures in results) else 0


if __name__ == "__main__":
    sys.exit(main())
