from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings

from aligned_vq.bitstream import CODECS, EntropyTables, Layout, max_body_bytes, pack, unpack
from aligned_vq.bitstream.entropy import decode_range, encode_range
from aligned_vq.bitstream.frame import CODING_NUMBERS
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.types import CODINGS, Coding, Encoded, QuantizerConfig, StageIndices

from .samples import (
    DIGEST,
    GROUPED,
    IDENTITY,
    PAPER,
    assert_same,
    context_tables,
    formula_indices,
    grouped_encoded,
    quantized_images,
    raw_encoded,
    skewed_tables,
)


def test_every_coding_has_a_codec_and_a_number() -> None:
    assert set(CODECS) == set(CODINGS) == set(get_args(Coding)) == set(CODING_NUMBERS)
    assert len(set(CODING_NUMBERS.values())) == len(CODINGS)


def test_the_paper_row_is_866_bytes() -> None:
    encoded = Encoded(577, (StageIndices(formula_indices(577, 1, 4096)),))
    payload = pack(encoded, PAPER, None, DIGEST)
    assert (payload.coding, payload.num_stages, payload.masked_stages) == ("fixed", 1, 0)
    assert len(payload.body) == 866 == PAPER.payload_bytes(577)
    assert_same(unpack(payload, PAPER, 577, statistics=False), encoded)


@settings(max_examples=60, deadline=None)
@given(quantized_images())
def test_fixed_round_trips(image: tuple[QuantizerConfig, Encoded]) -> None:
    config, encoded = image
    payload = pack(encoded, config, None, DIGEST)
    statistics = encoded.statistics is not None
    assert payload.coding == "fixed"
    assert len(payload.body) <= max_body_bytes(config, encoded.num_tokens, statistics)
    assert_same(unpack(payload, config, encoded.num_tokens, statistics), encoded)


@settings(max_examples=60, deadline=None)
@given(quantized_images())
def test_range_and_auto_round_trip(image: tuple[QuantizerConfig, Encoded]) -> None:
    config, encoded = image
    tables = EntropyTables.from_examples([encoded], config)
    body = encode_range(encoded, tables)
    assert_same(decode_range(body, Layout.of(encoded, config), tables), encoded)

    fixed = pack(encoded, config, None, DIGEST)
    payload = pack(encoded, config, tables, DIGEST)
    assert payload.coding == ("range" if len(body) < len(fixed.body) else "fixed")
    assert len(payload.body) == min(len(body), len(fixed.body))
    assert payload.crc32 == fixed.crc32
    statistics = encoded.statistics is not None
    assert_same(unpack(payload, config, encoded.num_tokens, statistics, tables), encoded)


@pytest.mark.parametrize("statistics", [False, True])
def test_raw_round_trips(statistics: bool) -> None:
    encoded = raw_encoded(5, statistics)
    payload = pack(encoded, IDENTITY, None, DIGEST)
    assert payload.coding == "raw"
    assert len(payload.body) == max_body_bytes(IDENTITY, 5, statistics)
    unpacked = unpack(payload, IDENTITY, 5, statistics)
    assert_same(unpacked, encoded)
    assert unpacked.features is not None
    assert unpacked.features.flags.writeable


def test_statistics_come_first_and_cost_four_bytes_a_token() -> None:
    encoded = grouped_encoded(50, statistics=True)
    payload = pack(encoded, GROUPED, None, DIGEST)
    assert encoded.statistics is not None
    assert payload.body[:200] == encoded.statistics.astype("<f2").tobytes()
    plain = pack(grouped_encoded(50), GROUPED, None, DIGEST)
    assert payload.body[200:] == plain.body


def test_the_largest_body_has_full_masks() -> None:
    stages = tuple(
        StageIndices(formula_indices(50, 2, size), np.ones(50, np.bool_)) for size in (100, 32)
    )
    payload = pack(Encoded(50, stages), GROUPED, None, DIGEST)
    assert len(payload.body) == max_body_bytes(GROUPED, 50, statistics=False) == 163


def test_range_beats_fixed_only_where_indices_are_skewed() -> None:
    rng = np.random.default_rng(0)
    skewed = StageIndices((4096 * rng.random((577, 1)) ** 6).astype(np.int32))
    uniform = StageIndices(rng.integers(0, 4096, (577, 1), np.int32))
    flat = EntropyTables((np.ones((1, 4096), np.uint32),))
    payload = pack(Encoded(577, (skewed,)), PAPER, skewed_tables(PAPER), DIGEST)
    assert payload.coding == "range"
    assert len(payload.body) < 700
    for tables in (flat, skewed_tables(PAPER)):
        payload = pack(Encoded(577, (uniform,)), PAPER, tables, DIGEST)
        assert (payload.coding, len(payload.body)) == ("fixed", 866)


def test_asking_for_a_coding() -> None:
    tables, with_contexts = skewed_tables(GROUPED), context_tables(GROUPED)
    assert pack(grouped_encoded(), GROUPED, tables, DIGEST, "range").coding == "range"
    assert pack(grouped_encoded(), GROUPED, tables, DIGEST, "fixed").coding == "fixed"
    with pytest.raises(ConfigError, match="needs entropy tables"):
        pack(grouped_encoded(), GROUPED, None, DIGEST, "range")
    with pytest.raises(ConfigError, match="needs context tables"):
        pack(grouped_encoded(), GROUPED, tables, DIGEST, "context")
    assert pack(grouped_encoded(), GROUPED, with_contexts, DIGEST, "context").coding == "context"
    with pytest.raises(ConfigError, match="not for the aligned quantizer"):
        pack(grouped_encoded(), GROUPED, tables, DIGEST, "raw")
    with pytest.raises(ConfigError, match="not for the identity quantizer"):
        pack(raw_encoded(), IDENTITY, None, DIGEST, "fixed")
    with pytest.raises(ConfigError, match="shapes"):
        pack(grouped_encoded(), GROUPED, skewed_tables(PAPER), DIGEST)
    one_token = Encoded(1, (StageIndices(np.array([[99]], np.int32)),))
    with pytest.raises(InvalidInput, match="falls back to fixed"):
        pack(one_token, PAPER, skewed_tables(PAPER), DIGEST, "range")


def test_what_does_not_fit_the_config_is_refused() -> None:
    good = grouped_encoded()
    coarse, fine = good.stages
    wide = StageIndices(np.full((50, 2), 100, np.int32))
    short = StageIndices(coarse.indices[:49])
    misfit = StageIndices(coarse.indices, np.ones(51, np.bool_) & (np.arange(51) < 50))
    for stages in ((), (coarse, fine, fine), (wide,), (short,), (misfit,)):
        with pytest.raises(ValueError, match="expected"):
            pack(replace(good, stages=stages), GROUPED, None, DIGEST)
    pairs = np.ones((50, 2), np.float32)
    with pytest.raises(ValueError, match="float16"):
        pack(replace(good, statistics=pairs), GROUPED, None, DIGEST)
    with pytest.raises(ValueError, match="features"):
        pack(replace(good, features=np.ones((50, 16), np.float32)), GROUPED, None, DIGEST)
    with pytest.raises(ValueError, match="1 to 65535 tokens"):
        pack(replace(good, num_tokens=0), GROUPED, None, DIGEST)


@pytest.mark.parametrize(("column", "value"), [(0, np.nan), (0, np.inf), (1, 0.0), (1, -1.0)])
def test_an_image_with_impossible_numbers_is_refused(column: int, value: float) -> None:
    encoded = grouped_encoded(statistics=True)
    assert encoded.statistics is not None
    encoded.statistics[7, column] = value
    with pytest.raises(InvalidInput):
        pack(encoded, GROUPED, None, DIGEST)
    raw = raw_encoded()
    assert raw.features is not None
    raw.features[0, 0] = np.inf
    with pytest.raises(InvalidInput):
        pack(raw, IDENTITY, None, DIGEST)
