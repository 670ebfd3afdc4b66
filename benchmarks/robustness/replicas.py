"""Two engine replicas behind one front tier, one of them killed during the run.

Clients ask about different images over gRPC, and the front tier distributes the questions to two
vLLM servers. When a third of the questions is answered, one server gets SIGKILL with all its
workers. Every answer is compared with the one that a single client of the transformers engine gets.
Runs in vLLM's environment (`make vllm`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
from tqdm import tqdm

from aligned_vq.answers import Sampling
from aligned_vq.files.atomic_file import write_file
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.engines import EngineProcess
from benchmarks.harness.load import LoadClient, clients, run
from benchmarks.harness.processes import CloudProcess
from benchmarks.harness.scraped import samples
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from protos.messages import Question

MAX_TOKENS = 48


@dataclass
class Outcome:
    """The outcome of one question."""

    token_ids: list[int] = field(default_factory=list)
    ends: int = 0
    """Number of chunks with a finish reason; 1 if the question was answered once."""
    error: str = ""
    seconds: float = 0.0


async def ask(stub: rpc.SplitInferenceAsyncStub, client: LoadClient, text: str) -> Outcome:
    """Ask one question with its payload, without retries in the client."""
    outcome = Outcome()
    started = time.perf_counter()
    call = stub.Ask()
    try:
        question = Question("", client.payload.manifest_digest, text, Sampling(MAX_TOKENS), b"")
        await call.write(pb.AskRequest(open=convert.question_to_proto(question)))
        for part in convert.payload_to_parts(client.payload):
            await call.write(pb.AskRequest(payload=part))
        async for response in call:
            chunk = convert.chunk_from_response(response)
            outcome.token_ids += chunk.token_ids
            outcome.ends += chunk.finish_reason is not None
    except grpc.aio.AioRpcError as error:
        outcome.error = f"{error.code().name}: {error.details()}"
    outcome.seconds = time.perf_counter() - started
    return outcome


async def ask_all(
    target: str, load: list[LoadClient], kill_after: int, kill: Callable[[], None]
) -> list[list[Outcome]]:
    """Run all clients concurrently and call `kill` after `kill_after` outcomes.

    Returns the outcomes by client.
    """
    finished = 0
    async with grpc.aio.insecure_channel(target) as channel:
        stub: rpc.SplitInferenceAsyncStub = rpc.SplitInferenceStub(channel)
        with tqdm(total=sum(len(client.questions) for client in load), desc="questions") as bar:

            async def run_client(client: LoadClient) -> list[Outcome]:
                nonlocal finished
                outcomes = []
                for text in client.questions:
                    outcomes.append(await ask(stub, client, text))
                    bar.update()
                    finished += 1
                    if finished == kill_after:
                        kill()
                return outcomes

            return list(await asyncio.gather(*map(run_client, load)))


def wait_for_engines(http: str, engines: int) -> None:
    """Wait until the front tier counts this number of healthy engines.

    Raises:
        RuntimeError: it did not within 30 seconds.
    """
    started = time.monotonic()
    while (healthy := samples(http)["avq_engine_replicas", ""]) != engines:
        if time.monotonic() - started > 30:
            raise RuntimeError(f"expected {engines} healthy engines, got {healthy:.0f} after 30 s")
        time.sleep(0.1)


@dataclass(frozen=True)
class Figures:
    """Figures of one run."""

    questions: int
    answered: int
    moved_to_another_engine: int
    """Questions, and remainders of answers, that the front tier sent again."""
    failed_before_first_token: int
    broken_off_after_first_token: int
    wrong: int
    answered_twice: int
    longest_seconds: float
    errors: list[str]


def figures(outcomes: list[Outcome], expected: list[list[int]], retried: int) -> Figures:
    """Compare outcomes with the expected token ids.

    A partial answer is wrong unless it is the beginning of the expected one.
    """
    pairs = list(zip(outcomes, expected, strict=True))
    failed = [(outcome, tokens) for outcome, tokens in pairs if outcome.error]
    wrong = sum(not outcome.error and outcome.token_ids != tokens for outcome, tokens in pairs)
    wrong += sum(
        outcome.token_ids != tokens[: len(outcome.token_ids)] for outcome, tokens in failed
    )
    return Figures(
        questions=len(pairs),
        answered=len(pairs) - len(failed),
        moved_to_another_engine=retried,
        failed_before_first_token=sum(not outcome.token_ids for outcome, _ in failed),
        broken_off_after_first_token=sum(bool(outcome.token_ids) for outcome, _ in failed),
        wrong=wrong,
        answered_twice=sum(outcome.ends > 1 for outcome in outcomes),
        longest_seconds=round(max(outcome.seconds for outcome in outcomes), 2),
        errors=sorted({outcome.error for outcome, _ in failed}),
    )


def main() -> int:
    """Print one JSON object; exits with 1 if an answer is wrong or came twice, or if a question
    failed before its first token."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--questions", type=int, default=30, help="of each client")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    load = clients(options.clients, options.questions)
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        _, _, expected = asyncio.run(run(cloud.target, load, together=False))
    # Both engines start before either is waited for, as each takes minutes.
    with EngineProcess(BUNDLE, CHECKPOINT) as first, EngineProcess(BUNDLE, CHECKPOINT) as second:
        first.wait()
        second.wait()
        urls = f"--engine_urls={first.url},{second.url}"
        with CloudProcess(BUNDLE, CHECKPOINT, "--engine=replicas", urls, "--http_port=0") as cloud:
            wait_for_engines(cloud.http, 2)
            third = options.clients * options.questions // 3
            outcomes = asyncio.run(ask_all(cloud.target, load, third, first.kill))
            # The front tier has to notice the loss.
            wait_for_engines(cloud.http, 1)
            retried = int(samples(cloud.http)["avq_engine_retries_total", ""])
    result = figures(
        [outcome for client in outcomes for outcome in client],
        [tokens for client in expected for tokens in client],
        retried,
    )
    text = json.dumps(asdict(result), indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, text + "\n")
    return int(bool(result.wrong or result.answered_twice or result.failed_before_first_token))


if __name__ == "__main__":
    sys.exit(main())
