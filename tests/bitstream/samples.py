"""Encoded images made by formula, the same on every machine, and hypothesis strategies for them."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from aligned_vq.bitstream import ContextTables, EntropyTables, EntryClasses
from aligned_vq.bitstream.context.rules import FEATURES, stage_rules
from aligned_vq.bitstream.context.stage_tables import StageContexts
from aligned_vq.types import Encoded, Indices, Payload, QuantizerConfig, StageIndices

DIGEST = bytes(range(16))
PAPER = QuantizerConfig(dim=1024, codebook_dim=32, codebook_sizes=(4096,))
GROUPED = QuantizerConfig(dim=16, codebook_dim=4, codebook_sizes=(100, 32), num_groups=2)
IDENTITY = QuantizerConfig(dim=4, codebook_sizes=(), kind="identity")


def formula_indices(num_tokens: int, groups: int, size: int, seed: int = 0) -> Indices:
    """Skewed towards 0: index = (i^2 + 5 g + seed) mod (1 + (7 i + g) mod size)."""
    token, group = np.arange(num_tokens)[:, None], np.arange(groups)[None, :]
    values = (token * token + 5 * group + seed) % (1 + (7 * token + group) % size)
    return values.astype(np.int32)


def skewed_tables(config: QuantizerConfig) -> EntropyTables:
    counts = [
        np.tile(1 + 60_000 // (1 + np.arange(size)), (config.num_groups, 1)).astype(np.uint32)
        for size in config.codebook_sizes
    ]
    return EntropyTables(tuple(counts))


def entry_classes(
    config: QuantizerConfig, symbols: int = 64, classes: int = 4
) -> list[EntryClasses]:
    """Entries next to each other are alike."""
    maps = []
    for size in config.codebook_sizes:
        entry = np.tile(np.arange(size), (config.num_groups, 1))
        symbol_of = entry * min(size, symbols) // size
        class_of = entry * min(size, classes) // size
        maps.append(EntryClasses(symbol_of.astype(np.uint16), class_of.astype(np.uint8)))
    return maps


def context_tables(config: QuantizerConfig) -> EntropyTables:
    """`skewed_tables` with contexts besides, every feature in use somewhere."""
    maps = entry_classes(config, symbols=40)
    uses = [{"region", "left", "upper"}, {"class_token", "latest", "previous", "left"}]
    mask_uses = {"class_token", "latest", "previous", "left", "upper"}
    features = [
        np.array([[f in use for f in FEATURES] for use in (uses[s % 2], mask_uses)], np.uint8)
        for s in range(len(maps))
    ]
    stages = []
    rules = stage_rules(features, [one.class_of for one in maps])
    for one, uses_of_stage, rule in zip(maps, features, rules, strict=True):
        group, context, symbol = np.ogrid[
            : config.num_groups, : rule.indices.num_contexts, : one.num_symbols
        ]
        bit = np.arange(2)
        coarse = 1 + 60_000 // (1 + symbol) // (1 + (context + symbol + group) % 3)
        stages.append(
            StageContexts(
                features=uses_of_stage,
                symbol_of=one.symbol_of,
                class_of=one.class_of,
                coarse=coarse.astype(np.uint32),
                fine=(1 + np.arange(one.symbol_of.size).reshape(one.symbol_of.shape) % 5).astype(
                    np.uint32
                ),
                mask=(1 + np.arange(rule.mask.num_contexts)[:, None] % 7 + 2 * bit).astype(
                    np.uint32
                ),
                empty=(90 - 80 * bit).astype(np.uint32),
            )
        )
    return EntropyTables(skewed_tables(config).counts, ContextTables(tuple(stages)))


def grouped_encoded(num_tokens: int = 50, statistics: bool = False) -> Encoded:
    """Two stages of `GROUPED`, the second only for the tokens 0, 3, 6 ..."""
    token = np.arange(num_tokens)
    mask = token % 3 == 0
    stages = (
        StageIndices(formula_indices(num_tokens, 2, 100)),
        StageIndices(formula_indices(int(mask.sum()), 2, 32, seed=3), mask),
    )
    pairs = np.stack([token / 8 - 2, 0.5 + token / 16], axis=1).astype(np.float16)
    return Encoded(num_tokens, stages, pairs if statistics else None)


def raw_encoded(num_tokens: int = 3, statistics: bool = True) -> Encoded:
    features = (np.arange(num_tokens * 4) / 4 - 1).astype(np.float32).reshape(num_tokens, 4)
    pairs = np.stack([np.arange(num_tokens), np.full(num_tokens, 0.5)], 1).astype(np.float32)
    return Encoded(num_tokens, statistics=pairs if statistics else None, features=features)


def with_body(payload: Payload, body: bytes) -> Payload:
    """Another body under a crc32 that fits it, as a hostile sender would make it."""
    return replace(payload, body=body, crc32=zlib.crc32(body))


def assert_same(found: Encoded, expected: Encoded) -> None:
    assert found.num_tokens == expected.num_tokens
    assert len(found.stages) == len(expected.stages)
    for ours, theirs in zip(found.stages, expected.stages, strict=True):
        assert ours.indices.dtype == np.int32
        assert np.array_equal(ours.indices, theirs.indices)
        assert (ours.mask is None) == (theirs.mask is None)
        if ours.mask is not None and theirs.mask is not None:
            assert ours.mask.dtype == np.bool_
            assert np.array_equal(ours.mask, theirs.mask)
    for one, other in (
        (found.statistics, expected.statistics),
        (found.features, expected.features),
    ):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


@st.composite
def quantized_images(draw: st.DrawFn) -> tuple[QuantizerConfig, Encoded]:
    """Any geometry and any image that fits it, small."""
    groups = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(2, 65_536), min_size=1, max_size=3))
    config = QuantizerConfig(12, 6 * groups if groups < 3 else 6, tuple(sizes), groups)
    num_tokens = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stages = []
    for size in sizes[: draw(st.integers(1, len(sizes)))]:
        mask = None
        if draw(st.booleans()):
            mask = rng.random(num_tokens) < draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
        covered = num_tokens if mask is None else int(mask.sum())
        top = draw(st.sampled_from([1, size]))
        stages.append(StageIndices(rng.integers(0, top, (covered, groups), np.int32), mask))
    statistics = None
    if draw(st.booleans()):
        statistics = (rng.random((num_tokens, 2)) + 0.1).astype(np.float16)
    return config, Encoded(num_tokens, tuple(stages), statistics)
