"""Two engine replicas behind one front tier, one of them killed in the middle.

Clients ask about pictures of their own over real gRPC; the front tier hands their questions to two
vLLM servers in turn, and one of these gets SIGKILL with all its workers once a third of the
questions is answered. Every answer is compared with what a lone client of the transformers engine
gets. Runs in vLLM's environment (`make vllm`).
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
    """What came back for one question."""

    token_ids: list[int] = field(default_factory=list)
    ends: int = 0
    """Last pieces, with a finish reason: 1 for a question that was answered once."""
    error: str = ""
    seconds: float = 0.0


async def ask(stub: rpc.SplitInferenceAsyncStub, client: LoadClient, text: str) -> Outcome:
    """One question with its payload, and nothing tried again on this side."""
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


async def talk(
    target: str, own: list[LoadClient], after: int, then: Callable[[], None]
) -> list[list[Outcome]]:
    """Outcomes by client, all clients at once; `then` happens after that many answers."""
    done = 0
    async with grpc.aio.insecure_channel(target) as channel:
        stub: rpc.SplitInferenceAsyncStub = rpc.SplitInferenceStub(channel)
        with tqdm(total=sum(len(client.questions) for client in own), desc="questions") as bar:

            async def one(client: LoadClient) -> list[Outcome]:
                nonlocal done
                found = []
                for text in client.questions:
                    found.append(await ask(stub, client, text))
                    bar.update()
                    done += 1
                    if done == after:
                        then()
                return found

            return list(await asyncio.gather(*map(one, own)))


def until(http: str, engines: int) -> None:
    """Wait, 30 seconds at most, until the front tier counts that many healthy engines."""
    started = time.monotonic()
    while samples(http)["avq_engine_replicas", ""] != engines:
        if time.monotonic() - started > 30:
            raise RuntimeError(f"the front tier does not see {engines} engines")
        time.sleep(0.1)


@dataclass(frozen=True)
class Figures:
    """What the run showed."""

    questions: int
    answered: int
    moved_to_another_engine: int
    """Questions, and rests of answers."""
    failed_before_first_token: int
    broken_off_after_first_token: int
    wrong: int
    answered_twice: int
    longest_seconds: float
    errors: list[str]


def figures(outcomes: list[Outcome], expected: list[list[int]], retried: int) -> Figures:
    """Counts; an answer broken off is wrong where it is not the start of the right one."""
    pairs = list(zip(outcomes, expected, strict=True))
    failed = [(own, right) for own, right in pairs if own.error]
    wrong = sum(not own.error and own.token_ids != right for own, right in pairs)
    wrong += sum(own.token_ids != right[: len(own.token_ids)] for own, right in failed)
    return Figures(
        questions=len(pairs),
        answered=len(pairs) - len(failed),
        moved_to_another_engine=retried,
        failed_before_first_token=sum(not own.token_ids for own, _ in failed),
        broken_off_after_first_token=sum(bool(own.token_ids) for own, _ in failed),
        wrong=wrong,
        answered_twice=sum(own.ends > 1 for own in outcomes),
        longest_seconds=round(max(own.seconds for own in outcomes), 2),
        errors=sorted({own.error for own, _ in failed}),
    )


def main() -> int:
    """Print one JSON object; exits with 1 if an answer is wrong or came twice, or a question failed
    before its first token."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--questions", type=int, default=30, help="of each client")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    own = clients(options.clients, options.questions)
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        _, _, expected = asyncio.run(run(cloud.target, own, together=False))
    with EngineProcess(BUNDLE, CHECKPOINT) as first, EngineProcess(BUNDLE, CHECKPOINT) as second:
        first.wait()
        second.wait()
        urls = f"--engine_urls={first.url},{second.url}"
        with CloudProcess(BUNDLE, CHECKPOINT, "--engine=replicas", urls, "--http_port=0") as cloud:
            until(cloud.http, 2)
            third = options.clients * options.questions // 3
            outcomes = asyncio.run(talk(cloud.target, own, third, first.kill))
            until(cloud.http, 1)
            retried = int(samples(cloud.http)["avq_engine_retries_total", ""])
    flat = [outcome for client in outcomes for outcome in client]
    found = figures(flat, [tokens for client in expected for tokens in client], retried)
    text = json.dumps(asdict(found), indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, text + "\n")
    return int(bool(found.wrong or found.answered_twice or found.failed_before_first_token))


if __name__ == "__main__":
    sys.exit(main())
