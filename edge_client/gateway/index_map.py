"""The indices of a payload on the patch grid of the image, for the page."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from aligned_vq.images.modality import CameraModality
from aligned_vq.types import Encoded, QuantizerConfig, StageIndices


class IndexMapRequest(BaseModel):
    """An image as a data URI, what its camera measures, and the operating point to encode it at."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    image: str
    quality: str | None = None
    modality: CameraModality | None = None


class RatesRequest(BaseModel):
    """An image as a data URI, whose payload size is computed at every operating point, and what its
    camera measures."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    image: str
    modality: CameraModality | None = None


def grid_side(num_tokens: int) -> int:
    """Side of the square patch grid, in patches; the first token is the class token."""
    return math.isqrt(num_tokens - 1)


def stages_of(encoded: Encoded, quantizer: QuantizerConfig) -> list[dict[str, Any]]:
    """The stages with indices, in order; `mask` and `indices` are rows of the patch grid, from the
    top left.

    The indices of a patch are a list, one per group of the codebook, or None if the stage does not
    cover the patch; likewise `class_token`.
    """
    side = grid_side(encoded.num_tokens)
    return [
        _stage(number, stage, encoded.num_tokens, side, quantizer)
        for number, stage in enumerate(encoded.stages)
        if len(stage.indices)
    ]


def _stage(
    number: int, stage: StageIndices, num_tokens: int, side: int, quantizer: QuantizerConfig
) -> dict[str, Any]:
    mask = np.ones(num_tokens, bool) if stage.mask is None else stage.mask
    indices: list[list[int] | None] = [None] * num_tokens
    # `stage.indices` holds covered tokens only, in the order of the tokens.
    for token, token_indices in zip(np.flatnonzero(mask), stage.indices.tolist(), strict=True):
        indices[token] = token_indices
    row_starts = range(1, num_tokens, side)
    # Plain integers, as numpy's booleans cannot be written as JSON.
    covered: list[Literal[0, 1]] = [1 if is_covered else 0 for is_covered in mask]
    return {
        "stage": number,
        "codebook_size": quantizer.codebook_sizes[number],
        "bits_per_index": quantizer.bits_per_index(number),
        "covered": int(mask.sum()),
        "class_token": indices[0],
        "mask": [covered[start : start + side] for start in row_starts],
        "indices": [indices[start : start + side] for start in row_starts],
    }
