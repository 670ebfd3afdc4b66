"""A payload that comes in the message of its question, whole or in part."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligned_vq.types import Payload
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from tests.e2e.raw import (
    GOOD_QUESTION,
    RawClient,
    Refusal,
    assert_clear,
    opening,
    parts,
    picture,
)


def together(payload: Payload, max_chunk_bytes: int) -> list[pb.AskRequest]:
    """The question with the first part, and the other parts."""
    first, *others = convert.payload_to_parts(payload, max_chunk_bytes)
    request = opening(payload.manifest_digest)
    request.open.payload.CopyFrom(first)
    return [request, *(pb.AskRequest(payload=part) for part in others)]


@pytest.mark.parametrize("max_chunk_bytes", [32_768, 7])
def test_it_is_the_payload_that_follows_elsewhere(
    raw: RawClient, payload: Payload, max_chunk_bytes: int
) -> None:
    expected = raw.ask([opening(payload.manifest_digest), *parts(payload)])
    requests = together(payload, max_chunk_bytes)
    assert (len(requests) == 1) == (max_chunk_bytes > len(payload.body))
    assert raw.ask(requests) == expected


@pytest.mark.parametrize("beside", ["digest", "no image"])
def test_beside_another_image_or_none_it_is_refused(
    raw: RawClient, payload: Payload, beside: str
) -> None:
    (request,) = together(payload, 32_768)
    if beside == "digest":
        request.open.image_digest = payload.digest()
    else:
        request.open.text_only = True
    with pytest.raises(Refusal) as caught:
        raw.ask([request])
    assert caught.value.name == "CorruptPayload"
    assert "got a payload beside" in caught.value.words
    assert_clear(caught.value.words)


def test_half_of_it_is_no_payload(raw: RawClient, payload: Payload) -> None:
    requests = together(payload, 7)
    with pytest.raises(Refusal) as caught:
        raw.ask(requests[:1])
    assert caught.value.name == "CorruptPayload"
    assert_clear(caught.value.words)


def test_the_client_sends_one_message(
    cloud: CloudProcess, bundle_directory: Path, payload: Payload
) -> None:
    with EdgeClient(cloud.target, bundle_directory) as client:
        answer = client.ask(picture(), GOOD_QUESTION, max_tokens=4)
        sent = client.compress(picture()).payload
        cancelled = client.stream(picture(5), GOOD_QUESTION)
        cancelled.cancel()
        assert client.ask(picture(), GOOD_QUESTION, max_tokens=4) == answer
    request = opening(sent.manifest_digest)
    request.open.request_id = "0" * 16
    (first,) = convert.payload_to_parts(sent)
    request.open.payload.CopyFrom(first)
    assert answer.bytes_sent == request.ByteSize() + 5  # gRPC's prefix, once
