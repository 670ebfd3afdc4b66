"""Every kind of hostile bytes is bounded and repeatable, and what comes back is read."""

from __future__ import annotations

import hpack
import numpy as np
import pytest

from benchmarks.attacks.peers.broken_frames import KINDS
from benchmarks.attacks.peers.frames import END_HEADERS, HEADERS, PING, CallEnd, call_ends, frame
from benchmarks.robustness.mutations import _stop_text
from protos.alignedvq.v1 import inference_pb2 as pb

QUESTION = pb.AskRequest(open=pb.QuestionOpen(question="What is it?")).SerializeToString()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_bounded_and_the_same_for_a_seed(kind: str) -> None:
    sizes = set()
    for seed in range(5):
        chunks = [b"".join(KINDS[kind](np.random.default_rng(seed), QUESTION)) for _ in range(2)]
        if kind != "half_records":  # a TLS hello is of the system's randomness
            assert chunks[0] == chunks[1]
        assert len(chunks[0]) <= 6_000_000
        sizes.add(len(chunks[0]))
    assert sum(sizes) > 0


def test_ends_of_calls_are_read_and_those_of_bugs_recognised() -> None:
    encoder = hpack.Encoder()
    data = frame(PING, 0, 0, bytes(8))
    for fields in (
        [(":status", "200"), ("content-type", "application/grpc")],
        [("grpc-status", "13"), ("alignedvq-error", "EngineError")],
        [("grpc-status", "2"), ("grpc-message", "Unexpected <class 'KeyError'>: 1")],
        [("grpc-status", "2"), ("grpc-message", "Bad method header")],
        [("grpc-status", "15"), ("alignedvq-error", "CorruptPayload"), ("grpc-message", "a")],
    ):
        data += frame(HEADERS, END_HEADERS, 1, encoder.encode(fields))
    found = list(call_ends(data + data[:5]))
    assert found[3] == CallEnd("15", "CorruptPayload", "a")
    assert [end.is_bug for end in found] == [True, True, False, False]


def test_stop_texts_are_unicode_of_any_plane() -> None:
    texts = [_stop_text(np.random.default_rng(seed)) for seed in range(200)]
    assert all(text.encode() for text in texts)
    assert max(max(text) for text in texts) > "\uffff"
    assert {1, 256, 257} <= {len(text) for text in texts}
