"""What rude clients cost the others: 95th percentiles of polite questions with and without them.

Polite clients ask follow-up questions one after the other. Beside them, each kind on its own:
readers that take a piece of text a second, streams whose payload never comes, connections that
stop in the middle of a frame, and a thousand idle ones. Measured in turns, so that a slow moment of
the machine meets all kinds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from aligned_vq.files.atomic_file import write_file
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.load import LoadClient, ask, clients
from benchmarks.harness.processes import CloudProcess
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from protos.messages import Question

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(4)  # and half of a frame's header
ROUNDS = 3


async def polite(target: str, own: list[LoadClient], questions: int) -> list[float]:
    """Seconds of every follow-up question of some clients."""
    times: list[float] = []
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = rpc.SplitInferenceStub(channel)

        async def talk(client: LoadClient) -> None:
            for number in range(questions):
                started = time.perf_counter()
                await ask(stub, client, client.questions[number % len(client.questions)], False)
                times.append(time.perf_counter() - started)

        await asyncio.gather(*map(talk, own))
    return times


@asynccontextmanager
async def nobody(target: str, client: LoadClient) -> AsyncIterator[None]:
    """Polite clients alone."""
    yield


@asynccontextmanager
async def slow_readers(target: str, client: LoadClient) -> AsyncIterator[None]:
    """16 descriptions, read a piece a second."""

    async def read(channel: grpc.aio.Channel) -> None:
        call = _opened(channel, client)
        for part in convert.payload_to_parts(client.payload):
            await call.write(pb.AskRequest(payload=part))
        async for _ in call:
            await asyncio.sleep(1)

    async with _tasks(target, read, 16):
        yield


@asynccontextmanager
async def no_payload(target: str, client: LoadClient) -> AsyncIterator[None]:
    """32 streams that open a question and neither send its payload nor close."""

    async def hold(channel: grpc.aio.Channel) -> None:
        call = _opened(channel, client)
        await call.read()

    async with _tasks(target, hold, 32):
        yield


@asynccontextmanager
async def half_open(target: str, client: LoadClient) -> AsyncIterator[None]:
    """200 connections that stop in the middle of a frame."""
    async with _sockets(target, 200, PREFACE):
        yield


@asynccontextmanager
async def idle(target: str, client: LoadClient) -> AsyncIterator[None]:
    """1,000 connections that say nothing."""
    async with _sockets(target, 1000, b""):
        yield


KINDS = (nobody, slow_readers, no_payload, half_open, idle)


def _opened(channel: grpc.aio.Channel, client: LoadClient) -> Any:
    question = Question("", client.payload.manifest_digest, "Describe the picture.")
    stub: Any = rpc.SplitInferenceStub(channel)
    first = pb.AskRequest(open=convert.question_to_proto(question))
    call = stub.Ask()
    asyncio.ensure_future(call.write(first)).add_done_callback(lambda done: done.exception())
    return call


@asynccontextmanager
async def _tasks(target: str, work: Callable[[Any], Any], count: int) -> AsyncIterator[None]:
    """So many tasks, begun anew as they end, each on a connection of its own."""

    async def again() -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(target, options) as channel:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await work(channel)
                await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(again()) for _ in range(count)]
    await asyncio.sleep(1)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _sockets(target: str, count: int, first: bytes) -> AsyncIterator[None]:
    host, port = target.split(":")
    writers = []
    try:
        for _ in range(count):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(first)
            writers.append(writer)
        await asyncio.sleep(0.5)
        yield
    finally:
        for writer in writers:
            writer.close()


async def measure(target: str, own: list[LoadClient], questions: int) -> dict[str, list[float]]:
    """Seconds by kind of neighbour, over some rounds."""
    await polite(target, own, 2)  # their pictures are held from here on
    found: dict[str, list[float]] = {kind.__name__: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind in KINDS:
            async with kind(target, own[0]):
                found[kind.__name__] += await polite(target, own, questions)
    return found


def main() -> int:
    """Print 95th percentiles and their ratios; exits with 1 above 1.5."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--questions", type=int, default=60, help="of each client and round")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(8192, hard)), hard))
    own = clients(options.clients, 8)
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        times = asyncio.run(measure(cloud.target, own, options.questions))
    p95 = {kind: statistics.quantiles(found, n=20)[-1] for kind, found in times.items()}
    figures = {
        kind: {"p95_ms": round(1e3 * value, 1), "ratio": round(value / p95["nobody"], 2)}
        for kind, value in p95.items()
    }
    for kind, own_figures in figures.items():
        print(f"{kind:>14}: p95 {own_figures['p95_ms']} ms, {own_figures['ratio']} of alone")
    if options.out:
        write_file(options.out, json.dumps(figures, indent=2) + "\n")
    return 0 if max(own_figures["ratio"] for own_figures in figures.values()) <= 1.5 else 1


if __name__ == "__main__":
    sys.exit(main())
