"""How long a client waits before it asks again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from aligned_vq.errors import CloudUnreachable, QuotaExceeded
from edge_client import EdgeClient
from tests.e2e.raw import GOOD_QUESTION, picture
from tests.edge.connection.fake_service import QUICK, SLACK_S, FakeService, failing, server


def busy(seconds: float, times: int = 99) -> FakeService:
    """Asks the first `times` callers to wait."""
    return FakeService(failing(QuotaExceeded("expected less, got more; wait", seconds), times))


def test_a_retry_waits_as_long_as_the_service_asks(bundle_directory: Path) -> None:
    service = busy(0.6, times=1)
    with server(service) as target, EdgeClient(target, bundle_directory, QUICK) as client:
        started = time.monotonic()
        answer = client.ask(picture(), GOOD_QUESTION)
        seconds = time.monotonic() - started
    assert answer == "a red star "
    assert answer.details.attempts == 2
    assert 0.6 <= seconds < 0.6 + SLACK_S


def test_no_retry_where_the_wait_is_longer_than_the_deadline(bundle_directory: Path) -> None:
    service = busy(QUICK.total_seconds + 0.5, times=1)
    with server(service) as target, EdgeClient(target, bundle_directory, QUICK) as client:
        started = time.monotonic()
        with pytest.raises(QuotaExceeded) as caught:
            client.ask(picture(), GOOD_QUESTION)
        seconds = time.monotonic() - started
    assert caught.value.retry_after_seconds == QUICK.total_seconds + 0.5
    assert seconds < SLACK_S
    assert service.calls == 1


def test_a_wait_ends_when_the_question_is_cancelled(bundle_directory: Path) -> None:
    service = busy(9.0)
    with server(service) as target, EdgeClient(target, bundle_directory) as client:
        stream = client.stream(picture(), GOOD_QUESTION)
        timer = threading.Timer(0.5, stream.cancel)
        timer.start()
        started = time.monotonic()
        with pytest.raises(CloudUnreachable, match="cancelled on this side"):
            list(stream)
        timer.join()
    assert time.monotonic() - started < 0.5 + SLACK_S
    assert service.calls == 1
