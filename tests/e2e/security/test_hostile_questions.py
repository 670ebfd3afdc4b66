"""Each kind of hostile question, past every check of a client: answered or clearly refused."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from aligned_vq.types import Payload
from benchmarks.attacks.hostile_questions import ANSWERED, REFUSED
from benchmarks.attacks.question_cases import HOSTILE, wire_message
from benchmarks.harness.processes import CloudProcess
from benchmarks.robustness.fuzz import outcome
from protos import convert
from tests.e2e.raw import assert_serves


@pytest.mark.parametrize("kinds", sorted({kind.split()[0] for kind in HOSTILE}))
def test_hostile_questions_touch_nobody(
    cloud: CloudProcess, bundle_directory: Path, payload: Payload, kinds: str
) -> None:
    chosen = [kind for kind in HOSTILE if kind.startswith(kinds)]
    (part,) = convert.payload_to_parts(payload)
    with grpc.insecure_channel(cloud.target) as channel:
        for kind in chosen:
            message = wire_message(HOSTILE[kind], payload.manifest_digest, part)
            status, _ = outcome(channel, [message])
            assert status in (*ANSWERED, *REFUSED), kind
    assert_serves(cloud.target, bundle_directory)
