"""A payload laid out as the picture it is of: which patches each stage covers, and with what."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from aligned_vq.types import Encoded, QuantizerConfig, StageIndices


class IndexMapRequest(BaseModel):
    """A picture as a data URI, and the operating point to encode it at."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    image: str
    quality: str | None = None


class RatesRequest(BaseModel):
    """A picture as a data URI, to be weighed at every operating point."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    image: str


def grid_side(num_tokens: int) -> int:
    """Patches on each side of the square that follows the class token."""
    return math.isqrt(num_tokens - 1)


def stages_of(encoded: Encoded, quantizer: QuantizerConfig) -> list[dict[str, Any]]:
    """Every stage in order: `mask` and `indices` are rows of the patch grid, from the top left.

    An index is a list, one number for each group of the codebook, and null where the stage does not
    cover the patch; `class_token` likewise.
    """
    side = grid_side(encoded.num_tokens)
    return [
        _stage(number, own, encoded.num_tokens, side, quantizer)
        for number, own in enumerate(encoded.stages)
        if len(own.indices)
    ]


def _stage(
    number: int, own: StageIndices, num_tokens: int, side: int, quantizer: QuantizerConfig
) -> dict[str, Any]:
    mask = np.ones(num_tokens, bool) if own.mask is None else own.mask
    entries: list[list[int] | None] = [None] * num_tokens
    for token, entry in zip(np.flatnonzero(mask), own.indices.tolist(), strict=True):
        entries[token] = entry
    rows = range(1, num_tokens, side)
    covered: list[Literal[0, 1]] = [1 if covers else 0 for covers in mask]
    return {
        "stage": number,
        "codebook_size": quantizer.codebook_sizes[number],
        "bits_per_index": quantizer.bits_per_index(number),
        "covered": int(mask.sum()),
        "class_token": entries[0],
        "mask": [covered[start : start + side] for start in rows],
        "indices": [entries[start : start + side] for start in rows],
    }
