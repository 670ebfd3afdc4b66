"""How tokens are picked, in vLLM's words."""

from __future__ import annotations

from typing import Any

from aligned_vq.answers import Sampling
from aligned_vq.errors import InvalidInput

MAX_TEMPERATURE = 2.0


def vllm_sampling(asked: Sampling) -> dict[str, Any]:
    """vLLM's sampling parameters. Text and stop texts are not its business: the service makes them
    of the token ids.

    Raises:
        InvalidInput: the temperature is above vLLM's limit.
    """
    if asked.temperature > MAX_TEMPERATURE:
        raise InvalidInput(
            f"expected a temperature of at most {MAX_TEMPERATURE:g} for this service's engine, got "
            f"{asked.temperature:g}; ask for a lower one"
        )
    return {
        "max_tokens": asked.max_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "seed": None if asked.seed is None else asked.seed % 2**63,
        "detokenize": False,
    }
