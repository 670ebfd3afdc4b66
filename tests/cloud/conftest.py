"""Engine replicas to order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.cloud.fake_replica import FakeReplica


@pytest.fixture
def fakes() -> Iterator[Callable[..., list[FakeReplica]]]:
    with ExitStack() as stack:
        yield lambda *moods: [stack.enter_context(FakeReplica(mood)) for mood in moods]
