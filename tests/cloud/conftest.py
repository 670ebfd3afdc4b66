"""Engine replicas to order, and what engines are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.engine.fake_replica import FakeReplica
from tests.conftest import random_llava


@pytest.fixture
def fakes() -> Iterator[Callable[..., list[FakeReplica]]]:
    with ExitStack() as stack:
        yield lambda *moods: [stack.enter_context(FakeReplica(mood)) for mood in moods]


@pytest.fixture(scope="module")
def llava() -> Any:
    """A random model, one for each file, whose answers end early now and then."""
    model = random_llava()
    model.generation_config.eos_token_id = 2
    return model


@pytest.fixture(scope="session")
def tokenizer(llava_directory: Path) -> Any:
    """The random models'."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(llava_directory)


@pytest.fixture(autouse=True, scope="module")
def _private_logs(private_logs: None) -> None:
    """Of every module here."""
