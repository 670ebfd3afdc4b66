"""How tokens are picked, in vLLM's words."""

from __future__ import annotations

from typing import Any

from aligned_vq.answers import Sampling


def vllm_sampling(asked: Sampling) -> dict[str, Any]:
    """vLLM's sampling parameters, all within its bounds where `check_sampling` let them pass. Text
    and stop texts are not its business: the service makes them of the token ids."""
    return {
        "max_tokens": asked.max_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "seed": None if asked.seed is None else asked.seed % 2**63,
        "detokenize": False,
    }
