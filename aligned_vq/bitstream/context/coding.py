"""Context coding: range coding conditioned on already coded neighbours and stages.

    [statistics, N x 2 float16 little-endian, not compressed]
    words of the range coder, uint32 little-endian; per stage, in coding order:
        if masked: one symbol, 1 for an empty mask; if 0, N mask bits in token order
        per group: per covered token a coarse symbol, then the entry's rank among the entries of
                   that symbol if there are several

Damaged bytes decode into other valid indices. The decoder therefore encodes the decoded indices
again and requires the received bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aligned_vq.bitstream import coders
from aligned_vq.bitstream.context.rules import Grid, History, IntArray, Rule, grid_of, iter_contexts
from aligned_vq.bitstream.context.stage_tables import GroupCoder
from aligned_vq.bitstream.context.tables import ContextTables
from aligned_vq.bitstream.counts import Models
from aligned_vq.bitstream.layout import RESEND, Layout
from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Encoded, Indices, Mask, StageIndices

# Decodes one value under a context; returns the value and its label in neighbours' contexts.
_Reader = Callable[[int], tuple[int, int]]


def encode_context(encoded: Encoded, tables: ContextTables) -> bytes:
    """The context-coding body of an `Encoded` with stages that fit the tables."""
    prefix = b"" if encoded.statistics is None else encoded.statistics.astype("<f2").tobytes()
    return prefix + _encode_stages(encoded, tables)


def decode_context(body: bytes, layout: Layout, tables: ContextTables) -> Encoded:
    """The `Encoded` of a context-coding body.

    Raises:
        CorruptPayload: the bytes are not exactly what `encode_context` makes of any indices.
    """
    statistics, coded = layout.split_body(body)
    with coders.reading(coded) as decoder:
        stages = _decode_stages(decoder, layout, tables)
    encoded = Encoded(layout.num_tokens, stages, statistics)
    if _encode_stages(encoded, tables) != coded:
        raise CorruptPayload(
            f"expected the canonical context coding of these indices, got other bytes; {RESEND}"
        )
    return encoded


def _encode_stages(encoded: Encoded, tables: ContextTables) -> bytes:
    encoder = coders.CODER.encoder()
    contexts_by_stage = iter_contexts(encoded, tables.rules)
    for stage, models, contexts in zip(
        encoded.stages, tables.stages, contexts_by_stage, strict=False
    ):
        if stage.mask is not None:
            # An empty mask costs one symbol instead of N bits.
            encoder.encode(int(contexts.mask is None), models.empty_model[0])
        if stage.mask is not None and contexts.mask is not None:
            for bit, context in zip(stage.mask.tolist(), contexts.mask.tolist(), strict=True):
                encoder.encode(int(bit), models.mask_models[context])
        for group, coder in enumerate(models.groups):
            _encode_indices(encoder, coder, stage.indices[:, group], contexts.indices[:, group])
    return coders.to_bytes(encoder)


def _encode_indices(encoder: Any, coder: GroupCoder, entries: Indices, contexts: IntArray) -> None:
    symbols, ranks = coder.symbol_of[entries].tolist(), coder.rank_of[entries].tolist()
    for symbol, rank, context in zip(symbols, ranks, contexts.tolist(), strict=True):
        encoder.encode(symbol, coder.coarse[context])
        # A symbol of a single entry already determines it.
        if len(coder.members[symbol]) > 1:
            encoder.encode(rank, coder.fine[symbol])


def _decode_stages(decoder: Any, layout: Layout, tables: ContextTables) -> tuple[StageIndices, ...]:
    grid = grid_of(layout.num_tokens)
    history = History(layout.num_tokens, layout.config.num_groups)
    stages = []
    for number in range(layout.num_stages):
        models, rules = tables.stages[number], tables.rules[number]
        mask: Mask | None = None
        tokens = list(range(layout.num_tokens))
        if layout.has_mask(number):
            mask = np.zeros(layout.num_tokens, np.bool_)
            if not decoder.decode(models.empty_model[0]):
                base = rules.mask.base(grid, history.latest[0], history.previous)
                read = _mask_reader(decoder, models.mask_models)
                mask[:] = _decode_tokens(tokens, rules.mask, grid, base, read)
            tokens = np.flatnonzero(mask).tolist()
        indices = np.empty((len(tokens), layout.config.num_groups), np.int32)
        for group, coder in enumerate(models.groups):
            base = rules.indices.base(grid, history.latest[group], history.previous)
            read = _index_reader(decoder, coder)
            indices[:, group] = _decode_tokens(tokens, rules.indices, grid, base, read)
        # Last, because contexts may depend on earlier stages only.
        history.add(rules, indices, mask)
        stages.append(StageIndices(indices, mask))
    return tuple(stages)


def _decode_tokens(
    tokens: list[int], rule: Rule, grid: Grid, base: IntArray, read: _Reader
) -> list[int]:
    """One value per token, in raster order: its left and upper neighbours are then decoded."""
    # Plain lists and integers: numpy scalars are several times slower in a loop over tokens.
    bases, left, upper = base.tolist(), grid.left.tolist(), grid.upper.tolist()
    left_weight, upper_weight = rule.weight("left"), rule.weight("upper")
    labels = [0] * (len(bases) + 1)  # one more for tokens without a neighbour
    values = []
    for token in tokens:
        left_label, upper_label = labels[left[token]], labels[upper[token]]
        # As in `Rule.contexts`, for one token.
        context = bases[token] + left_weight * left_label + upper_weight * upper_label
        value, labels[token] = read(context)
        values.append(value)
    return values


def _mask_reader(decoder: Any, models: Models) -> _Reader:
    def read(context: int) -> tuple[int, int]:
        bit = decoder.decode(models[context])
        return bit, bit

    return read


def _index_reader(decoder: Any, coder: GroupCoder) -> _Reader:
    def read(context: int) -> tuple[int, int]:
        symbol = decoder.decode(coder.coarse[context])
        members = coder.members[symbol]
        # Every symbol has a count above 0, so damaged bytes may decode to an unused one.
        if not members:
            raise CorruptPayload(f"expected a symbol of some entry, got {symbol}; {RESEND}")
        entry = members[decoder.decode(coder.fine[symbol]) if len(members) > 1 else 0]
        return entry, coder.label_of[entry]

    return read
