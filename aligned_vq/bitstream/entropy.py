"""Range coding with static tables: frequent indices cost fewer bits than rare ones.

    [statistics, N x 2 float16 little-endian, not compressed]
    words of the range coder, uint32 little-endian; per stage, in coding order:
        if masked: n, the number of covered tokens, uniform over 0..N; then N mask bits, each 1 with
                   probability (n + 1/2) / (N + 1)
        per group: n indices under the counts of their codebook

A range coder decodes damaged bytes into other valid indices. The decoder therefore encodes the
decoded indices again and requires the received bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from aligned_vq.bitstream import coders
from aligned_vq.bitstream.layout import RESEND, Layout
from aligned_vq.bitstream.tables import EntropyTables
from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Encoded, Mask, StageIndices


def encode_range(encoded: Encoded, tables: EntropyTables) -> bytes:
    """The range-coding body of an `Encoded` with stages that fit the tables."""
    prefix = b"" if encoded.statistics is None else encoded.statistics.astype("<f2").tobytes()
    return prefix + _encode_stages(encoded.num_tokens, encoded.stages, tables)


def decode_range(body: bytes, layout: Layout, tables: EntropyTables) -> Encoded:
    """The `Encoded` of a range-coding body.

    Raises:
        CorruptPayload: the bytes are not exactly what `encode_range` makes of any indices.
    """
    statistics, coded = layout.split_body(body)
    with coders.reading(coded) as decoder:
        stages = tuple(
            _decode_stage(decoder, layout, tables, stage) for stage in range(layout.num_stages)
        )
    if _encode_stages(layout.num_tokens, stages, tables) != coded:
        raise CorruptPayload(
            f"expected the canonical range coding of these indices, got other bytes; {RESEND}"
        )
    return Encoded(layout.num_tokens, stages, statistics)


def _encode_stages(
    num_tokens: int, stages: tuple[StageIndices, ...], tables: EntropyTables
) -> bytes:
    encoder = coders.CODER.encoder()
    for number, stage in enumerate(stages):
        if stage.mask is not None:
            covered = len(stage.indices)
            # The number first: it determines the probability of the mask bits.
            encoder.encode(np.array([covered], np.int32), _covered_model(num_tokens))
            encoder.encode(stage.mask.astype(np.int32), _mask_model(covered, num_tokens))
        for group in range(stage.indices.shape[1]):
            column = np.ascontiguousarray(stage.indices[:, group])
            encoder.encode(column, tables.model(number, group))
    return coders.to_bytes(encoder)


def _decode_stage(
    decoder: Any,
    layout: Layout,
    tables: EntropyTables,
    number: int,
) -> StageIndices:
    mask: Mask | None = None
    covered = layout.num_tokens
    if layout.has_mask(number):
        covered = int(decoder.decode(_covered_model(layout.num_tokens), 1)[0])
        bits = decoder.decode(_mask_model(covered, layout.num_tokens), layout.num_tokens)
        mask = bits.astype(np.bool_)
        # Damage only: the encoder announces the number of ones in the mask.
        if int(mask.sum()) != covered:
            raise CorruptPayload(
                f"expected a mask of {covered} tokens for stage {number}, "
                f"got {int(mask.sum())}; {RESEND}"
            )
    # The model of `covered` has no value above N, so the array is bounded.
    indices = np.empty((covered, layout.config.num_groups), np.int32)
    for group in range(layout.config.num_groups):
        indices[:, group] = decoder.decode(tables.model(number, group), covered)
    return StageIndices(indices, mask)


def _covered_model(num_tokens: int) -> Any:
    return coders.CODER.uniform(num_tokens + 1)


def _mask_model(covered: int, num_tokens: int) -> Any:
    # The halves keep both bits possible if no token or every token is covered.
    return coders.CODER.bernoulli((covered + 0.5) / (num_tokens + 1))
