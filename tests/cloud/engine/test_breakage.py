"""Failures of the engine and its batch: every request ends, and memory stays bounded."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from aligned_vq.answers import Sampling
from aligned_vq.errors import EngineError
from aligned_vq.telemetry.log_limit import LimitedHandler
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.transformers import failures
from cloud_server.engine.transformers.answer import RunningAnswer
from cloud_server.engine.transformers.batch import RunningBatch
from cloud_server.engine.transformers.engine import EngineCapacity, TransformersEngine
from cloud_server.engine.transformers.picking import Picker
from cloud_server.engine.transformers.slots import SlotLayer
from tests.cloud.engine.test_engine import alone, collect, ids, prompt, request
from tests.conftest import random_llava

LONG = Sampling(max_tokens=60)


@pytest.fixture(scope="module")
def llava() -> Any:
    model = random_llava()
    model.generation_config.eos_token_id = 599  # a token that no answer here reaches
    return model


@pytest.fixture
def engine(llava: Any, tokenizer: Any) -> Iterator[TransformersEngine]:
    made = TransformersEngine(llava, tokenizer, EngineCapacity(4, 4 * 128, 1 << 20))
    yield made
    asyncio.run(made.close())


async def outcomes(*pending: Awaitable[Any]) -> list[Any]:
    async with asyncio.timeout(30):
        return await asyncio.gather(*pending, return_exceptions=True)


def ask(engine: TransformersEngine, *requests: EngineRequest) -> list[Any]:
    """The token ids of each request, or its error."""

    async def run() -> list[Any]:
        return await outcomes(*(collect(engine.generate(item)) for item in requests))

    return [found if isinstance(found, Exception) else ids(found) for found in asyncio.run(run())]


def test_a_batch_whose_rows_all_fail_ends_and_the_next_is_answered(
    engine: TransformersEngine, llava: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_tokens = RunningBatch._next

    def gone(batch: RunningBatch, tokens: Sequence[int], first: int) -> Tensor:
        if engine._running:
            raise RuntimeError("no memory")
        return next_tokens(batch, tokens, first)

    monkeypatch.setattr(RunningBatch, "_next", gone)
    failed = ask(engine, *(request(number, LONG) for number in range(4)))
    assert [type(error) for error in failed] == [EngineError] * 4
    assert len(set(map(id, failed))) == 4  # a separate error for each
    monkeypatch.undo()
    assert ask(engine, request(1)) == [alone(llava, request(1))]
    assert engine.healthy


def test_an_engine_whose_probe_fails_is_lost(
    llava: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*arguments: Any) -> Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered")

    engine = TransformersEngine(llava, tokenizer, EngineCapacity(2, 4 * 128, 1 << 20))
    monkeypatch.setattr(RunningBatch, "_forward", gone)
    failed = ask(engine, *(request(number, LONG) for number in range(6)))
    assert [type(error) for error in failed] == [EngineError] * 6
    engine._thread.join(10)
    assert engine.lost
    assert not engine.healthy
    (refused,) = ask(engine, request(1))
    assert "another replica" in str(refused)
    asyncio.run(engine.close())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("name", ["step", "join", "fits", "_next"])
def test_all_requests_end_when_the_engine_is_ended(
    llava: Any,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    name: str,
) -> None:
    def ended(*arguments: Any) -> None:
        raise error

    engine = TransformersEngine(llava, tokenizer, EngineCapacity(2, 4 * 128, 1 << 20))
    monkeypatch.setattr(RunningBatch, name, ended)
    failed = ask(engine, *(request(number, LONG) for number in range(6)))
    assert [type(found) for found in failed] == [EngineError] * 6
    assert engine.lost
    asyncio.run(engine.close())


@pytest.mark.parametrize("name", ["_iterate", "_collect", "_admit"])
def test_all_requests_end_when_the_engines_loop_fails(
    llava: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def broken(engine: TransformersEngine) -> None:
        raise RuntimeError

    monkeypatch.setattr(TransformersEngine, name, broken)
    engine = TransformersEngine(llava, tokenizer, EngineCapacity(2, 4 * 128, 1 << 20))
    failed = ask(engine, request(1), request(2))
    assert [type(found) for found in failed] == [EngineError] * 2
    engine._thread.join(10)
    assert engine.lost
    asyncio.run(engine.close())


def test_a_panic_of_the_tokenizer_ends_one_answer(
    engine: TransformersEngine, llava: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):  # as pyo3's, which is not a subclass of Exception
        pass

    take = RunningAnswer.add_token

    def panicking(answer: RunningAnswer, token: int, ends: bool) -> bool:
        if answer.request.request_id == "request-2":
            raise PanicException
        return take(answer, token, ends)

    monkeypatch.setattr(RunningAnswer, "add_token", panicking)
    first, second = ask(engine, request(1), request(2))
    assert first == alone(llava, request(1))
    assert "PanicException" in str(second)
    assert engine.healthy


def test_a_row_that_overflowed_does_not_affect_the_next_answer(
    llava: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A masked NaN still makes sums NaN, so none may be left for the next answer in that row."""
    engine = TransformersEngine(llava, tokenizer, EngineCapacity(2, 4 * 128, 1 << 20))
    next_tokens = RunningBatch._next

    def overflowing(batch: RunningBatch, tokens: Sequence[int], first: int) -> Tensor:
        logits = next_tokens(batch, tokens, first)
        for row, answer in enumerate(engine._running._rows[first : first + len(tokens)]):
            if answer.request.request_id == "request-1":
                logits[row] = torch.nan
                for layer in batch._cache.slots:
                    layer.keys[first + row] = layer.values[first + row] = torch.nan
        return logits

    monkeypatch.setattr(RunningBatch, "_next", overflowing)
    long = EngineRequest("long", prompt(0), request(0).image, Sampling(max_tokens=80), b"x")
    found = ask(engine, long, *(request(number) for number in (1, 2, 4, 6)))
    assert "NaN or infinity" in str(found.pop(1))
    assert found == [alone(llava, item) for item in (long, request(2), request(4), request(6))]
    asyncio.run(engine.close())


def test_a_request_that_cannot_join_ends_no_running_answer(
    engine: TransformersEngine, llava: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out when rows are made longer, with half of the layers done."""
    resize = SlotLayer.resize

    def exhausted(layer: SlotLayer, rows: int, tokens: int) -> None:
        if tokens > 128 and layer is engine._batch._cache.slots[-1]:
            raise MemoryError
        resize(layer, rows, tokens)

    monkeypatch.setattr(SlotLayer, "resize", exhausted)
    running = request(1, LONG)
    large = EngineRequest("large", prompt(2), request(2).image, Sampling(max_tokens=150), b"y")

    async def run() -> list[Any]:
        chunks = engine.generate(running)
        first = [await anext(chunks)]
        joining = (collect(engine.generate(item)) for item in (large, request(4)))
        others = asyncio.create_task(outcomes(*joining))
        first += await collect(chunks)
        return [first, await others]

    first, (failed, second) = asyncio.run(run())
    assert ids(first) == alone(llava, running)
    assert isinstance(failed, EngineError)
    assert ids(second) == alone(llava, request(4))
    assert ask(engine, request(6)) == [alone(llava, request(6))]


def test_a_request_that_never_fits_is_refused_and_delays_no_other(
    llava: Any, tokenizer: Any
) -> None:
    engine = TransformersEngine(
        llava, tokenizer, EngineCapacity(4, 300, 1 << 20)
    )  # a little more than two blocks
    length = len(prompt(1))
    for tokens in (257 - length, 299 - length):
        (refused,) = ask(engine, request(1, Sampling(max_tokens=tokens)))
        assert "at most 256 tokens" in str(refused)
    fits = request(1, Sampling(max_tokens=256 - length))
    assert ask(engine, fits, request(2)) == [alone(llava, fits), alone(llava, request(2))]
    assert not engine._answers
    asyncio.run(engine.close())


def test_long_answers_before_short_ones_do_not_exceed_the_memory(
    llava: Any, tokenizer: Any
) -> None:
    budget = 4 * 128
    engine = TransformersEngine(llava, tokenizer, EngineCapacity(4, budget, 1 << 20))
    held: list[int] = []
    cache = engine._batch._cache
    engine._running._observe = lambda size: held.append(cache.num_rows * cache.row_tokens)
    long = request(0, Sampling(max_tokens=200))
    assert ask(engine, long) == [alone(llava, long)]
    short = [request(number, Sampling(max_tokens=30)) for number in range(1, 5)]
    assert ask(engine, *short) == [alone(llava, item) for item in short]
    assert max(held) <= budget
    asyncio.run(engine.close())


def test_a_failure_in_any_part_of_a_request_ends_that_request(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError

    for owner in (RunningAnswer, Picker):
        with monkeypatch.context() as patch:
            patch.setattr(owner, "__init__", broken)
            (failed,) = ask(engine, request(1))
        assert isinstance(failed, EngineError)
    assert engine.healthy
    assert not engine._answers


def test_repeated_failures_are_counted_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_logged_kinds", set())
    stream = io.StringIO()
    handler = LimitedHandler(stream, first=2)
    logger = logging.getLogger(failures.__name__)
    logger.addHandler(handler)
    try:
        for _ in range(100):
            for error in (ValueError("what a user said"), raised(KeyError("also"))):
                failures.log_failure("an answer ended", error)
        handler.close()
    finally:
        logger.removeHandler(handler)
    log = stream.getvalue()
    assert log.count("an answer ended: ValueError\n") == 2
    assert log.count("an answer ended: KeyError, test_breakage.py line ") == 2
    assert log.count("98 more in 10 s like") == 2
    assert log.count("Traceback") == 1  # once, for the error that was raised somewhere


def raised(error: Exception) -> Exception:
    try:
        raise error
    except KeyError as caught:
        return caught
