"""The pair, built and started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.harness.compose import ComposePair


@pytest.fixture(scope="session")
def pair() -> Iterator[ComposePair]:
    with ComposePair() as made:
        made.build()
        made.up()
        made.wait_ready()
        yield made
