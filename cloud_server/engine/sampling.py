"""Sampling settings as vLLM's parameters."""

from __future__ import annotations

from typing import Any

from aligned_vq.answers import Sampling


def vllm_sampling(sampling: Sampling) -> dict[str, Any]:
    """vLLM's sampling parameters, within its bounds if `check_sampling` accepts `sampling`.

    Detokenisation and stop texts are left out: the service handles them itself, so that every
    engine yields the same text.
    """
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        # A signed 64-bit integer, where the wire has an unsigned one.
        "seed": None if sampling.seed is None else sampling.seed % 2**63,
        "detokenize": False,
    }
