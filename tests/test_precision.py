"""Autocast only where bfloat16 is fast."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from aligned_vq.precision import has_bfloat16_arithmetic


@pytest.fixture(autouse=True)
def forget_this_processor() -> Iterator[None]:
    has_bfloat16_arithmetic.cache_clear()
    yield
    has_bfloat16_arithmetic.cache_clear()


@pytest.mark.parametrize(
    ("features", "fast"),
    [
        ({"avx2": True}, False),
        ({"avx2": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
    ],
)
def test_a_cpu_needs_instructions_for_it(
    features: dict[str, bool], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert has_bfloat16_arithmetic("cpu") is fast


def test_accelerators_have_it() -> None:
    assert has_bfloat16_arithmetic("cuda")
