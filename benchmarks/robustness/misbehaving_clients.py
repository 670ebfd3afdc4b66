"""What misbehaving clients cost the others: p95 of good questions with and without them.

Well-behaved clients ask follow-up questions one after the other, beside one kind of misbehaviour at
a time: readers that take one chunk of text a second, streams whose payload never comes, connections
that stop in the middle of a frame, and a thousand idle connections. The kinds alternate, so that a
slow moment of the machine affects all of them.
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

PREFACE_AND_HALF_FRAME = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(4)
"""HTTP/2's preface and four of the nine bytes of a frame's header."""
ROUNDS = 3


async def ask_follow_ups(target: str, load: list[LoadClient], questions: int) -> list[float]:
    """Seconds of every follow-up question of well-behaved clients."""
    times: list[float] = []
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = rpc.SplitInferenceStub(channel)

        async def talk(client: LoadClient) -> None:
            for number in range(questions):
                started = time.perf_counter()
                await ask(stub, client, client.questions[number % len(client.questions)], False)
                times.append(time.perf_counter() - started)

        await asyncio.gather(*map(talk, load))
    return times


@asynccontextmanager
async def nobody(target: str, client: LoadClient) -> AsyncIterator[None]:
    """No misbehaving client."""
    yield


@asynccontextmanager
async def slow_readers(target: str, client: LoadClient) -> AsyncIterator[None]:
    """16 streams of descriptions, of which one chunk a second is read."""

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
        # Returns when the service ends the call.
        await call.read()

    async with _tasks(target, hold, 32):
        yield


@asynccontextmanager
async def half_open(target: str, client: LoadClient) -> AsyncIterator[None]:
    """200 connections that stop in the middle of a frame header."""
    async with _sockets(target, 200, PREFACE_AND_HALF_FRAME):
        yield


@asynccontextmanager
async def idle(target: str, client: LoadClient) -> AsyncIterator[None]:
    """1,000 connections on which nothing is sent."""
    async with _sockets(target, 1000, b""):
        yield


KINDS = (nobody, slow_readers, no_payload, half_open, idle)
"""Context managers of misbehaving clients; their names are keys of the results."""


def _opened(channel: grpc.aio.Channel, client: LoadClient) -> Any:
    """A call whose question is sent without its payload."""
    question = Question("", client.payload.manifest_digest, "Describe the picture.")
    stub: Any = rpc.SplitInferenceStub(channel)
    first = pb.AskRequest(open=convert.question_to_proto(question))
    call = stub.Ask()
    # Retrieve the exception of a failed write: asyncio reports those that nobody retrieves.
    asyncio.ensure_future(call.write(first)).add_done_callback(lambda done: done.exception())
    return call


@asynccontextmanager
async def _tasks(target: str, work: Callable[[Any], Any], count: int) -> AsyncIterator[None]:
    """Run `count` tasks, each on a separate connection and restarted when it ends."""

    async def repeat() -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(target, options) as channel:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await work(channel)
                await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(repeat()) for _ in range(count)]
    await asyncio.sleep(1)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _sockets(target: str, count: int, first: bytes) -> AsyncIterator[None]:
    """Keep `count` connections open on which only `first` is sent."""
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


async def measure(target: str, load: list[LoadClient], questions: int) -> dict[str, list[float]]:
    """Seconds of good questions by kind of misbehaviour, over `ROUNDS` rounds."""
    await ask_follow_ups(target, load, 2)  # fills the image cache
    seconds: dict[str, list[float]] = {kind.__name__: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind in KINDS:
            async with kind(target, load[0]):
                seconds[kind.__name__] += await ask_follow_ups(target, load, questions)
    return seconds


def main() -> int:
    """Print 95th percentiles and their ratios; exits with 1 if a ratio exceeds 1.5."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--questions", type=int, default=60, help="of each client and round")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    # A thousand idle connections need more descriptors than the usual soft limit of 1,024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(8192, hard)), hard))
    load = clients(options.clients, 8)
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        times = asyncio.run(measure(cloud.target, load, options.questions))
    # The last of 19 cut points is the 95th percentile.
    p95 = {kind: statistics.quantiles(seconds, n=20)[-1] for kind, seconds in times.items()}
    figures = {
        kind: {"p95_ms": round(1e3 * value, 1), "ratio": round(value / p95["nobody"], 2)}
        for kind, value in p95.items()
    }
    for kind, row in figures.items():
        print(f"{kind:>14}: p95 {row['p95_ms']} ms, {row['ratio']} of alone")
    if options.out:
        write_file(options.out, json.dumps(figures, indent=2) + "\n")
    return 0 if max(row["ratio"] for row in figures.values()) <= 1.5 else 1


if __name__ == "__main__":
    sys.exit(main())
