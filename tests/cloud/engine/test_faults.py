"""An exception in one of eight answers, at each step of the engine: seven come out as if alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from aligned_vq.answers import Sampling
from aligned_vq.errors import EngineError
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.text import StopTexts, TextStream
from cloud_server.engine.transformers.answer import RunningAnswer
from cloud_server.engine.transformers.batch import RunningBatch
from cloud_server.engine.transformers.engine import EngineCapacity, TransformersEngine
from cloud_server.engine.transformers.picking import Picker
from cloud_server.engine.transformers.prefill import Prefill
from cloud_server.engine.transformers.running import RunningAnswers
from cloud_server.engine.transformers.slots import SlotCache
from tests.cloud.engine.test_engine import alone, collect, ids, image, request

ROWS, VICTIM = 8, 5
NAME = f"request-{VICTIM}"
UNSEEN = image(77)
LENGTHS = (18, 7, 24, 12, 5, 16, 9, 21)

Fail = Callable[[], None]
Condition = Callable[..., bool]
Plant = Callable[["Planting"], None]


class Planting:
    """Where an exception goes: the first time, or every time that it is the victim's turn."""

    def __init__(
        self,
        engine: TransformersEngine,
        patch: pytest.MonkeyPatch,
        error: type[BaseException],
        token: int,
    ) -> None:
        self.engine, self.patch, self.error, self.token = engine, patch, error, token
        self.raised = 0

    def into(
        self, owner: Any, name: str, when: Condition, *, once: bool = False, after: bool = False
    ) -> None:
        """Make a method raise, before or after it has done its work."""
        original = getattr(owner, name)

        def planted(*given: Any, **named: Any) -> Any:
            hit = when(*given) and not (once and self.raised)
            found = original(*given, **named) if after or not hit else None
            if hit:
                self.raised += 1
                raise self.error("planted")
            return found

        self.patch.setattr(owner, name, planted)

    def is_victim(self, answer: RunningAnswer) -> bool:
        """Its answer, once it has as many tokens as the plant waits for."""
        return answer.request.request_id == NAME and answer._count >= self.token

    def in_rows(self, first: int, count: int) -> bool:
        """Is the victim's row among these?"""
        rows = self.engine._running._rows[first : first + count]
        return any(self.is_victim(answer) for answer in rows)

    @property
    def victim(self) -> RunningAnswer | None:
        """Once it was asked."""
        return self.engine._answers.get(NAME)

    def holds(self, name: str, part: Any) -> bool:
        """Is this the victim's, once it has come so far?"""
        return self.due() and getattr(self.victim, name) == part

    def due(self) -> bool:
        """Has the victim come so far?"""
        return self.victim is not None and self.is_victim(self.victim)


def into_forward(plan: Planting) -> None:
    """The model itself, in joint passes and in those of one row."""

    def joins(batch: RunningBatch, embeds: Tensor, first: int, *rest: Any) -> bool:
        asked = plan.engine._running
        return any(plan.is_victim(a) for a in asked.joining) and _looks_like(plan, embeds)

    plan.into(RunningBatch, "_forward", joins)


def _looks_like(plan: Planting, embeds: Tensor) -> bool:
    """Is the victim's last prompt token among the rows that join?"""
    assert plan.victim is not None
    last = plan.engine._llava.get_input_embeddings()(
        torch.tensor(plan.victim.request.prompt_ids[-1])
    )
    return bool((embeds == last).all(-1).any())


def into_step(plan: Planting) -> None:
    plan.into(RunningBatch, "_next", lambda batch, tokens, first: plan.in_rows(first, len(tokens)))


def into_step_when_done(plan: Planting) -> None:
    """Joint pass only, once its lengths have grown: a repeat must not write a token twice."""
    plan.into(RunningBatch, "step", lambda batch, tokens: plan.due(), once=True, after=True)


def into_join_when_done(plan: Planting) -> None:
    collect = TransformersEngine._collect

    def slowly(engine: TransformersEngine) -> None:  # so that several come to join together
        time.sleep(0.01)
        collect(engine)

    plan.patch.setattr(TransformersEngine, "_collect", slowly)
    plan.into(RunningBatch, "join", lambda *given: len(given[1]) > 1, once=True, after=True)


def into_logits(plan: Planting) -> None:
    """No exception at all: the model overflows, in keys and values, too."""
    original = RunningBatch._next

    def overflowing(batch: RunningBatch, tokens: Sequence[int], first: int) -> Tensor:
        logits = original(batch, tokens, first)
        for row, answer in enumerate(plan.engine._running._rows[first : first + len(tokens)]):
            if plan.is_victim(answer):
                plan.raised += 1
                logits[row] = (torch.nan, torch.inf, -torch.inf)[plan.raised % 3]
                for layer in batch._cache.slots:
                    layer.keys[first + row] = layer.values[first + row] = torch.nan
        return logits

    plan.patch.setattr(RunningBatch, "_next", overflowing)


def into_once(owner: type, name: str, after: bool) -> Plant:
    """A bug of the engine itself that shows once."""
    return lambda plan: plan.into(owner, name, lambda *given: plan.due(), once=True, after=after)


ENDS_IT: dict[str, Plant] = {
    "prompt": lambda plan: plan.into(Prefill, "row", lambda self, own: plan.is_victim(own)),
    "prefix": lambda plan: plan.into(
        RunningBatch, "prefix", lambda self, embeds: torch.equal(embeds[-len(UNSEEN) :], UNSEEN)
    ),
    "join forward": into_forward,
    "step forward": into_step,
    "overflow": into_logits,
    "pick": lambda plan: plan.into(
        Picker, "sample", lambda self, logits: plan.holds("picker", self)
    ),
    "take": lambda plan: plan.into(
        RunningAnswer, "add_token", lambda self, *rest: plan.is_victim(self)
    ),
    "taken": lambda plan: plan.into(
        RunningAnswer, "add_token", lambda self, *rest: plan.is_victim(self), after=True
    ),
    "text": lambda plan: plan.into(
        TextStream, "push", lambda self, *rest: plan.holds("_text", self)
    ),
    "decode": lambda plan: plan.into(
        TextStream, "_decode", lambda self, *rest: plan.holds("_text", self)
    ),
    "stop texts": lambda plan: plan.into(
        StopTexts, "push", lambda self, *rest: plan.holds("_stops", self)
    ),
    "room": lambda plan: plan.into(
        RunningBatch, "fits", lambda self, needs: plan.holds("max_tokens", needs[-1])
    ),
}
ENDS_NOBODY: dict[str, Plant] = {
    "observe": lambda plan: plan.into(plan.engine._running, "_observe", lambda size: True),
    "leave": lambda plan: plan.into(RunningBatch, "leave", lambda *given: True),
    "left": lambda plan: plan.into(RunningBatch, "leave", lambda *given: True, after=True),
    "move": lambda plan: plan.into(SlotCache, "move", lambda *given: True),
    "step done": into_step_when_done,
    "join done": into_join_when_done,
    **{
        f"{owner.__name__}.{name}{' done' if after else ''}": into_once(owner, name, after)
        for owner, name in (
            (TransformersEngine, "_iterate"),
            (TransformersEngine, "_collect"),
            (TransformersEngine, "_admit"),
            (RunningAnswers, "join"),
            (RunningAnswers, "advance"),
            (RunningAnswers, "deliver"),
        )
        for after in (False, True)
    },
}


@pytest.fixture
def engine(llava: Any, tokenizer: Any) -> Iterator[TransformersEngine]:
    made = TransformersEngine(
        llava, tokenizer, EngineCapacity(ROWS, ROWS * 128, 1 << 20), lambda size: None
    )
    yield made
    asyncio.run(made.close())


def asked(number: int) -> EngineRequest:
    own = request(number, Sampling(max_tokens=LENGTHS[number]))
    if number != VICTIM:
        return own
    sampling = Sampling(LENGTHS[number], temperature=1.0, seed=3, stop=("never said",))
    prompt = [*own.prompt_ids, 599]
    return EngineRequest(NAME, prompt, UNSEEN, sampling, b"unseen")


@pytest.fixture(scope="module")
def expected(llava: Any) -> dict[int, list[int]]:
    """What a lone client is answered, of all but the victim."""
    return {number: alone(llava, asked(number)) for number in range(ROWS) if number != VICTIM}


async def _ask_all(engine: TransformersEngine) -> list[list[int] | BaseException]:
    async def late(number: int) -> list[int]:
        await asyncio.sleep(0.004 * (number * 3 % ROWS))
        return ids(await collect(engine.generate(asked(number))))

    async with asyncio.timeout(60):
        return await asyncio.gather(*map(late, range(ROWS)), return_exceptions=True)


def _others_are_whole(
    engine: TransformersEngine, expected: dict[int, list[int]]
) -> list[int] | BaseException:
    """Ask all; returns the victim's answer, or what ended it."""
    answers = asyncio.run(_ask_all(engine))
    for number, whole in expected.items():
        assert answers[number] == whole, f"answer {number}: {answers[number]}"
    return answers[VICTIM]


@pytest.mark.parametrize("place", ENDS_IT)
@pytest.mark.parametrize(
    ("error", "token"),
    [(MemoryError, 1), (StopIteration, 4)],
)
def test_a_fault_in_one_answer_ends_that_one(
    engine: TransformersEngine,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[int, list[int]],
    place: str,
    error: type[BaseException],
    token: int,
) -> None:
    if place in ("prompt", "prefix", "join forward", "room"):
        token = 0
    plan = Planting(engine, monkeypatch, error, token)
    with monkeypatch.context() as plan.patch:
        ENDS_IT[place](plan)
        outcome = _others_are_whole(engine, expected)
        assert plan.raised
        assert isinstance(outcome, EngineError), outcome
        assert "on this question" in str(outcome)
    assert engine.healthy
    assert len(_others_are_whole(engine, expected)) > token  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ENDS_NOBODY)
def test_a_fault_between_answers_ends_none(
    engine: TransformersEngine,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[int, list[int]],
    place: str,
) -> None:
    plan = Planting(engine, monkeypatch, RuntimeError, 3)
    with monkeypatch.context() as plan.patch:
        ENDS_NOBODY[place](plan)
        outcome = _others_are_whole(engine, expected)
        assert plan.raised
    assert engine.healthy
    assert outcome == _others_are_whole(engine, expected)
