"""SIGTERM in the middle of many answers."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aligned_vq.errors import AlignedVQError, CloudUnreachable
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient, EdgeConfig
from edge_client.answer import Answer
from tests.e2e.raw import CHANNEL_OPTIONS, GOOD_QUESTION, picture

STREAMS = 50
ONCE = EdgeConfig(attempts=1, connect_seconds=10, first_token_seconds=30, total_seconds=60)


def ended(client: EdgeClient, tokens: int, begun: threading.Barrier) -> Answer | AlignedVQError:
    """How one stream ends; the barrier opens when all of them have begun."""
    with client.stream(picture(), GOOD_QUESTION, max_tokens=tokens) as stream:
        next(stream)
        begun.wait(30)
        try:
            for _ in stream:
                pass
        except AlignedVQError as error:
            return error
    assert stream.answer is not None
    return stream.answer


@pytest.mark.parametrize(
    ("tokens", "drain_seconds"), [(120, 30.0), (1500, 0.5)], ids=["enough time", "too little"]
)
def test_fifty_streams_end_clearly(
    tokens: int, drain_seconds: float, talkative: Path, bundle_directory: Path
) -> None:
    """All finish, or those that the drain was too short for are told that the service is gone."""
    options = (
        *("--parallel_answers=64", "--cache_tokens=200000", f"--max_answer_tokens={tokens}"),
        f"--drain_seconds={drain_seconds}",
    )
    begun = threading.Barrier(STREAMS + 1)
    with (
        CloudProcess(bundle_directory, talkative, *options) as cloud,
        EdgeClient(cloud.target, bundle_directory, ONCE) as client,
        grpc.insecure_channel(cloud.target, options=CHANNEL_OPTIONS) as channel,
        ThreadPoolExecutor(STREAMS) as threads,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=60
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        running = [threads.submit(ended, client, tokens, begun) for _ in range(STREAMS)]
        begun.wait(30)
        cloud.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        ends = [each.result(60) for each in running]
        answered = time.monotonic()
        assert cloud.process.wait(20) == 0
        assert time.monotonic() - answered < 15  # although the watch is still open
    finished = [end for end in ends if isinstance(end, Answer)]
    assert all(end.details.usage.completion_tokens == tokens for end in finished)
    for end in ends:
        if not isinstance(end, Answer):
            assert isinstance(end, CloudUnreachable)
            assert "shut down before the answer was complete" in str(end)
    if drain_seconds > 1:
        assert len(finished) == STREAMS
    else:
        assert not finished
        assert answered - started < drain_seconds + 3
    assert "Traceback" not in cloud.log
