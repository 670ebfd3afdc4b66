"""Sampling holds for any setting, whatever bounds say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aligned_vq.answers import Sampling
from aligned_vq.errors import EngineError
from cloud_server.engine.transformers.picking import Picker, pick

CPU = torch.device("cpu")
ANY = st.floats(min_value=0, allow_infinity=True) | st.sampled_from(
    [5e-324, 1e-45, 1.4e-45, 1e-38, 1e-30, 0.01, 2.0, 1e38, 3.5e38, 1.7e308, math.nan, -1.0]
)
LOGITS = st.lists(
    st.floats(-1e38, 1e38) | st.sampled_from([0.0, -0.0, -math.inf, 1e-45]), min_size=1, max_size=9
)


@settings(max_examples=400)
@given(LOGITS, ANY, ANY, st.none() | st.integers(-(2**70), 2**70), st.sampled_from("bhf"))
def test_there_is_a_token_for_any_setting(
    logits: list[float], temperature: float, top_p: float, seed: int | None, kind: str
) -> None:
    dtype = {"b": torch.bfloat16, "h": torch.float16, "f": torch.float32}[kind]
    row = torch.tensor([logits]).to(dtype)
    picker = Picker(Sampling(temperature=temperature, top_p=top_p, seed=seed), CPU)
    (token,) = pick(row, [picker])
    if torch.isfinite(row.max()):
        assert isinstance(token, int)
        assert row[0, token] > -math.inf
    else:
        assert isinstance(token, EngineError)


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-38, 1e-6, 0.01])
def test_next_to_no_temperature_is_greedy(temperature: float) -> None:
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(0))
    picker = Picker(Sampling(temperature=temperature, seed=1), CPU)
    assert pick(logits, [picker]) == [int(logits.argmax())]


def test_very_high_temperature_draws_from_all_tokens_that_may_come() -> None:
    logits = torch.tensor([[5.0, -math.inf, -3.0, 0.0]])
    picker = Picker(Sampling(temperature=math.inf, seed=1), CPU)
    drawn = [pick(logits, [picker])[0] for _ in range(300)]
    assert {0, 2, 3} == set(drawn)
    assert min(map(drawn.count, (0, 2, 3))) > 50


def test_shares_are_those_of_softmax() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0, -1.0]])
    picker = Picker(Sampling(temperature=0.7, top_p=0.95, seed=1), CPU)
    drawn = [pick(logits, [picker])[0] for _ in range(4000)]
    share = torch.softmax(logits[0] / 0.7, 0)
    assert 3 not in drawn  # beyond top_p
    for token in range(3):
        wanted = float(share[token] / share[:3].sum())
        assert drawn.count(token) / len(drawn) == pytest.approx(wanted, abs=0.03)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_overflow_ends_that_answer_alone(value: float, temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, value, 2.0], [3.0, 1.0, 2.0]])
    asked = [Picker(Sampling(temperature=t), CPU) for t in (0.0, temperature, 0.0)]
    first, second, third = pick(logits, asked)
    assert (first, third) == (2, 0)
    assert isinstance(second, EngineError)
    assert "finite" in str(second)
