from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aligned_vq.bitstream import (
    Conditioning,
    ContextTables,
    EntropyTables,
    Layout,
    max_body_bytes,
    pack,
    unpack,
)
from aligned_vq.bitstream.context.coding import decode_context, encode_context
from aligned_vq.bitstream.context.rules import grid_of
from aligned_vq.bitstream.entropy import encode_range
from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Encoded, QuantizerConfig, StageIndices

from .samples import DIGEST, assert_same, entry_classes, quantized_images

TYPICAL = QuantizerConfig(dim=1024, codebook_sizes=(4096, 64, 4096, 4096))
NONE = StageIndices(np.zeros((0, 1), np.int32), np.zeros(577, np.bool_))


def smooth_field(rng: np.random.Generator) -> NDArray[np.float64]:
    """Values `[24, 24]` of which neighbours are alike."""
    field = rng.normal(size=(24, 24))
    for _ in range(3):
        around = [np.roll(field, shift, axis) for shift in (-1, 0, 1) for axis in (0, 1)]
        field = np.mean(around, axis=0)
    return np.asarray(field / field.std())


def typical(seed: int) -> Encoded:
    """Stage 0 absent, 1 a smooth background, 2 and 3 on patches, entries near those of stage 1."""
    rng = np.random.default_rng(seed)
    levels = np.clip(2 + np.stack([smooth_field(rng) for _ in range(3)]), 0, 3).astype(np.int64)
    background = np.append(63, np.tensordot([16, 4, 1], levels, 1))
    detail = np.append(9, smooth_field(rng))
    stages = [NONE, StageIndices(background.astype(np.int32)[:, None])]
    for least, spread in ((0.6, 128), (1.3, 512)):
        mask = detail > least
        entries = 64 * background[mask] + (spread * rng.random(int(mask.sum()))).astype(np.int64)
        stages.append(StageIndices((entries % 4096).astype(np.int32)[:, None], mask))
    return Encoded(577, tuple(stages))


TRAINING = [typical(seed) for seed in range(100)]
MAPS = entry_classes(TYPICAL, classes=16)
TABLES = EntropyTables.from_examples(TRAINING, TYPICAL, MAPS)
CONTEXTS = ContextTables.from_examples(TRAINING, TYPICAL, MAPS)
UNSEEN = [typical(seed) for seed in range(1000, 1010)]


def mean_bytes(tables: ContextTables) -> float:
    return sum(len(encode_context(encoded, tables)) for encoded in UNSEEN) / len(UNSEEN)


@settings(max_examples=80, deadline=None)
@given(quantized_images(), st.sampled_from(["static", "position", "neighbours"]), st.booleans())
def test_round_trip(
    image: tuple[QuantizerConfig, Encoded], conditioning: Conditioning, learned: bool
) -> None:
    config, encoded = image
    maps = entry_classes(config, classes=3)
    examples = [encoded] if learned else []
    contexts = ContextTables.from_examples(examples, config, maps, conditioning)
    body = encode_context(encoded, contexts)
    assert_same(decode_context(body, Layout.of(encoded, config), contexts), encoded)

    statistics = encoded.statistics is not None
    tables = replace(EntropyTables.from_examples(examples, config), contexts=contexts)
    fixed, ranged = pack(encoded, config, None, DIGEST), encode_range(encoded, tables)
    payload = pack(encoded, config, tables, DIGEST)
    sizes = {"fixed": len(fixed.body), "range": len(ranged), "context": len(body)}
    assert len(payload.body) == sizes[payload.coding] == min(sizes.values())
    assert payload.crc32 == fixed.crc32
    assert_same(unpack(payload, config, encoded.num_tokens, statistics, tables), encoded)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 30), st.integers(0, 15))
def test_random_bodies_decode_or_are_corrupt(body: bytes, num_tokens: int, masked: int) -> None:
    layout = Layout(TYPICAL, num_tokens, 4, masked, statistics=False)
    try:
        encoded = decode_context(body, layout, CONTEXTS)
    except CorruptPayload:
        return
    assert encode_context(encoded, CONTEXTS) == body
    assert pack(encoded, TYPICAL, None, DIGEST).body


def test_damage_to_a_typical_payload_is_refused() -> None:
    payload = pack(UNSEEN[0], TYPICAL, TABLES, DIGEST)
    assert payload.coding == "context"
    rng = np.random.default_rng(0)
    bodies = [payload.body[:-4], payload.body[:-1], payload.body + bytes(4), b""]
    for bit in rng.integers(0, 8 * len(payload.body), 60).tolist():
        flipped = bytearray(payload.body)
        flipped[bit // 8] ^= 1 << bit % 8
        bodies.append(bytes(flipped))
    for body in bodies:
        with pytest.raises(CorruptPayload):
            unpack(replace(payload, body=body), TYPICAL, 577, False, TABLES)


def test_context_coding_is_the_smallest_where_neighbours_are_alike() -> None:
    sizes = {
        conditioning: mean_bytes(ContextTables.from_examples(TRAINING, TYPICAL, MAPS, conditioning))
        for conditioning in ("static", "position", "neighbours")
    }
    ranged = sum(len(encode_range(encoded, TABLES)) for encoded in UNSEEN) / len(UNSEEN)
    assert sizes["static"] < 1.01 * ranged
    assert sizes["position"] < 1.01 * sizes["static"]
    assert sizes["neighbours"] < 0.8 * sizes["static"]
    for encoded in UNSEEN:
        payload = pack(encoded, TYPICAL, TABLES, DIGEST)
        assert payload.coding == "context"
        assert_same(unpack(payload, TYPICAL, 577, False, TABLES), encoded)


def test_code_bits_foretell_the_body() -> None:
    for encoded in UNSEEN:
        ideal = CONTEXTS.code_bits(encoded) / 8
        assert ideal - 0.5 < len(encode_context(encoded, CONTEXTS)) < ideal + 8.5


def test_an_absent_stage_costs_next_to_nothing() -> None:
    one_stage = QuantizerConfig(dim=1024, codebook_sizes=(4096,))
    absent = Encoded(577, (NONE,))
    for examples in ([], [absent]):
        contexts = ContextTables.from_examples(examples, one_stage, MAPS[:1])
        assert contexts.code_bits(absent) <= 2
    assert CONTEXTS.code_bits(absent) < 0.1
    empty = Encoded(577, (NONE,) * 4)
    assert CONTEXTS.code_bits(empty) <= 4 * 16
    assert len(encode_context(absent, CONTEXTS)) <= 4


def test_a_mask_of_all_tokens_costs_little_where_it_is_usual() -> None:
    config = QuantizerConfig(dim=1024, codebook_sizes=(64,))
    indices = np.zeros((577, 1), np.int32)
    full = Encoded(577, (StageIndices(indices, np.ones(577, np.bool_)),))
    contexts = ContextTables.from_examples([full] * 50, config, MAPS[1:2])
    plain = contexts.code_bits(Encoded(577, (StageIndices(indices),)))
    assert contexts.code_bits(full) - plain < 2


def test_a_mask_that_covers_nothing_has_one_form() -> None:
    """Its bits one by one are another form of the same mask, which no encoder writes."""
    told = encode_context(Encoded(577, (NONE,)), CONTEXTS)
    lied = replace(CONTEXTS.stages[0], empty=CONTEXTS.stages[0].empty[::-1].copy())
    other = encode_context(Encoded(577, (NONE,)), ContextTables((lied, *CONTEXTS.stages[1:])))
    assert told != other
    with pytest.raises(CorruptPayload):
        decode_context(other, Layout(TYPICAL, 577, 1, 1, statistics=False), CONTEXTS)


def test_the_same_indices_give_the_same_bytes() -> None:
    again = ContextTables.from_examples(iter(TRAINING), TYPICAL, MAPS)
    assert again.digest() == CONTEXTS.digest()
    assert TABLES.contexts is not None
    for encoded in UNSEEN:
        body = encode_context(encoded, CONTEXTS)
        assert body == encode_context(encoded, again) == encode_context(encoded, TABLES.contexts)
        decoded = decode_context(body, Layout.of(encoded, TYPICAL), again)
        assert encode_context(decoded, CONTEXTS) == body


def test_the_size_limit_holds() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, size, (577, 1), np.int32) for size in TYPICAL.codebook_sizes]
    payload = pack(Encoded(577, tuple(map(StageIndices, noise))), TYPICAL, TABLES, DIGEST)
    assert payload.coding == "fixed"
    large = replace(payload, coding="context", body=bytes(max_body_bytes(TYPICAL, 577, False) + 1))
    with pytest.raises(CorruptPayload, match="at most"):
        unpack(large, TYPICAL, 577, False, TABLES)


def test_neighbours_are_those_of_a_grid_after_the_class_token() -> None:
    grid = grid_of(10)
    assert grid.left.tolist() == [10, 10, 1, 2, 10, 4, 5, 10, 7, 8]
    assert grid.upper.tolist() == [10, 10, 10, 10, 1, 2, 3, 4, 5, 6]
    assert grid.region.tolist() == [0, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    row = grid_of(4)
    assert row.left.tolist() == [4, 0, 1, 2]
    assert row.upper.tolist() == [4, 4, 4, 4]
    assert row.region.tolist() == [1, 2, 2, 1]
    assert grid_of(1).region.tolist() == [0]
