"""A gateway brings the questions of many over one connection: bad ones of one leave it open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from aligned_vq.types import Payload
from benchmarks.harness.processes import CloudProcess
from cloud_server.config import CloudConfig
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from tests.e2e.raw import opening, parts

MANY = CloudConfig.max_abandoned + 100


def bad(kind: str, digest: bytes) -> pb.AskRequest:
    """A question that is read and then refused."""
    match kind:
        case "special token":
            return opening(digest, "<image> What is it?")
        case "image not held":
            request = opening(digest)
            request.open.image_digest = bytes(16)
            return request
        case "settings":
            return opening(digest, temperature=-1.0)
        case _:
            return opening(bytes(16))


@pytest.mark.parametrize("kind", ["special token", "image not held", "settings", "another bundle"])
def test_bad_questions_leave_the_others_of_their_connection_alone(
    cloud: CloudProcess, payload: Payload, digest: bytes, kind: str
) -> None:
    last = threading.Event()

    def slow() -> Iterator[pb.AskRequest]:
        yield opening(digest, max_tokens=4)
        last.wait(60)
        yield from parts(payload)

    def refused(_: int) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Ask(iter([bad(kind, digest)]), timeout=60))
        error: Any = caught.value
        return str(error.code().name)

    with grpc.insecure_channel(cloud.target) as channel:
        stub: Any = rpc.SplitInferenceStub(channel)
        answer = stub.Ask(slow(), timeout=100)
        with ThreadPoolExecutor(16) as pool:
            statuses = set(pool.map(refused, range(MANY)))
        last.set()
        responses = list(answer)
    assert responses[-1].HasField("done")
    assert statuses <= {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}
