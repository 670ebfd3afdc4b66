"""Files of version 1 decode to these indices for ever; a change here is a new bitstream version.

`REGENERATE=1 pytest tests/bitstream/test_golden.py` writes them anew; review the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aligned_vq.bitstream import BITSTREAM_VERSION, from_frame, pack, to_frame, unpack
from aligned_vq.types import CODINGS, Coding

from .samples import (
    DIGEST,
    GROUPED,
    IDENTITY,
    assert_same,
    context_tables,
    grouped_encoded,
    raw_encoded,
    skewed_tables,
)

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "fixed": (grouped_encoded(), GROUPED, skewed_tables(GROUPED)),
    "range": (grouped_encoded(statistics=True), GROUPED, skewed_tables(GROUPED)),
    "raw": (raw_encoded(), IDENTITY, None),
    "context": (grouped_encoded(statistics=True), GROUPED, context_tables(GROUPED)),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_version_1_decodes_for_ever(coding: Coding) -> None:
    expected, config, tables = CASES[coding]
    path = GOLDEN / f"payload_v1_{coding}.avq"
    if os.environ.get("REGENERATE") == "1":
        path.write_bytes(to_frame(pack(expected, config, tables, DIGEST, coding)))
    payload = from_frame(path.read_bytes())
    assert (payload.coding, payload.manifest_digest) == (coding, DIGEST)
    statistics = expected.statistics is not None
    found = unpack(payload, config, expected.num_tokens, statistics, tables)
    assert_same(found, expected)


@pytest.mark.parametrize("coding", CODINGS)
def test_the_same_indices_give_the_same_bytes(coding: Coding) -> None:
    assert BITSTREAM_VERSION == 1
    expected, config, tables = CASES[coding]
    frame = to_frame(pack(expected, config, tables, DIGEST, coding))
    assert frame == (GOLDEN / f"payload_v1_{coding}.avq").read_bytes()
