"""The payload's bytes: the `.avq` frame, and bodies of every coding with and without tables.

Invariant: `from_frame` and `unpack` raise nothing but CorruptPayload. A payload that is accepted,
also under the checksum that a hostile sender would compute, decodes to int32 indices of the one
right shape, below the size of their codebook, and packs to the same payload again. Whatever indices
an image may have come back from each coding.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from aligned_vq.bitstream import CODECS, EntropyTables, from_frame, pack, to_frame, unpack
from aligned_vq.bitstream.frame import HEADER_BYTES, MAGIC
from aligned_vq.errors import CorruptPayload, InvalidInput
from aligned_vq.types import Coding, Encoded, Payload, QuantizerConfig, StageIndices
from tests.bitstream.samples import (
    DIGEST,
    GROUPED,
    IDENTITY,
    assert_same,
    context_tables,
    skewed_tables,
)
from tests.fuzz.target import Mutate, Target

SMALL = QuantizerConfig(dim=8, codebook_dim=4, codebook_sizes=(2, 3, 300))
_FOUND_CRC = re.compile("got ([0-9a-f]{8}) from the body")
_STATISTICS, _INDICES = 4, 8
"""Bits of an input's first byte; the lowest two choose one of `BUNDLES`."""


@dataclass(frozen=True)
class _Bundle:
    """What a payload is decoded with."""

    config: QuantizerConfig
    tokens: int
    tables: EntropyTables | None

    @property
    def codings(self) -> list[Coding]:
        return [
            name
            for name, codec in CODECS.items()
            if codec.quantizer == self.config.kind and not codec.missing(self.tables)
        ]


@functools.cache
def _bundle(number: int) -> _Bundle:
    return (
        lambda: _Bundle(GROUPED, 17, context_tables(GROUPED)),
        lambda: _Bundle(SMALL, 10, context_tables(SMALL)),
        lambda: _Bundle(IDENTITY, 3, None),
        lambda: _Bundle(GROUPED, 1, skewed_tables(GROUPED)),
    )[number]()


def check(data: bytes) -> None:
    """See the module's invariant."""
    flags, rest = (data[0], data[1:]) if data else (0, b"")
    own, statistics = _bundle(flags & 3), bool(flags & _STATISTICS)
    if flags & _INDICES:
        for payload, encoded in _packed(own, _encoded(own, statistics, rest)):
            assert_same(_unpacked(payload, own, statistics), encoded)
            assert from_frame(to_frame(payload)) == payload
        return
    try:
        payload = from_frame(rest)
    except CorruptPayload:
        return
    assert to_frame(payload) == rest
    try:
        _unpacked(payload, own, statistics)
    except CorruptPayload as error:
        # A hostile sender computes the checksum that fits: that of what the body decodes to.
        if found := _FOUND_CRC.search(str(error)):
            _unpacked(replace(payload, crc32=int(found[1], 16)), own, statistics)


def _unpacked(payload: Payload, own: _Bundle, statistics: bool) -> Encoded:
    """What a payload decodes to, held to the invariant."""
    encoded = unpack(payload, own.config, own.tokens, statistics, own.tables)
    assert encoded.num_tokens == own.tokens
    assert (encoded.statistics is not None) == statistics
    for stage, size in zip(encoded.stages, own.config.codebook_sizes, strict=False):
        covered = own.tokens if stage.mask is None else int(stage.mask.sum())
        assert stage.indices.dtype == np.int32
        assert stage.indices.shape == (covered, own.config.num_groups)
        assert not stage.indices.size or 0 <= stage.indices.min() <= stage.indices.max() < size
        assert stage.indices.flags.writeable
    digest = payload.manifest_digest
    assert pack(encoded, own.config, own.tables, digest, payload.coding) == payload
    return encoded


def _packed(own: _Bundle, encoded: Encoded) -> Iterator[tuple[Payload, Encoded]]:
    for coding in (*own.codings, "auto"):
        try:
            yield pack(encoded, own.config, own.tables, DIGEST, coding), encoded  # type: ignore[arg-type]
        except InvalidInput:  # of unlikely indices: longer than in fixed coding
            assert coding in ("range", "context")


def _encoded(own: _Bundle, statistics: bool, data: bytes) -> Encoded:
    """An image whose every number comes from some bytes."""
    numbers = np.frombuffer(data + b"\0\0"[len(data) % 2 :] or b"\0\0", "<u2")
    tokens = own.tokens
    if own.config.kind == "identity":
        features = np.resize(numbers / 7 - 500, (tokens, own.config.dim)).astype(np.float32)
        pairs = np.resize(numbers, (tokens, 2)).astype(np.float32) + np.float32(0.5)
        return Encoded(tokens, statistics=pairs if statistics else None, features=features)
    stages = []
    for number, size in enumerate(own.config.codebook_sizes):
        mask = None
        if number and data and data[0] >> number & 1:
            mask = np.resize(np.roll(numbers, number) >> number, tokens) % 3 == 0
        covered = tokens if mask is None else int(mask.sum())
        values = np.resize(np.roll(numbers, -number), (covered, own.config.num_groups))
        stages.append(StageIndices((values % size).astype(np.int32), mask))
    count = 1 + (data[1] % len(stages) if len(data) > 1 else 0)
    halves = (np.resize(numbers, (tokens, 2)) / 2.0 + 0.25).astype(np.float16)
    return Encoded(tokens, tuple(stages[:count]), halves if statistics else None)


def seeds() -> Iterator[bytes]:
    """A frame of each coding under each bundle, and plain numbers."""
    numbers = bytes(range(7, 120, 3))
    for number in range(4):
        for statistics in (0, _STATISTICS):
            yield bytes([number | statistics | _INDICES]) + numbers
            own = _bundle(number)
            for payload, _ in _packed(own, _encoded(own, bool(statistics), numbers)):
                yield bytes([number | statistics]) + to_frame(payload)


def vary(rng: random.Random, data: bytes, mutate: Mutate) -> bytes:
    """Bytes changed anywhere; then, mostly, a header that lets them through to the decoder."""
    data = mutate(data, TARGET.max_bytes)
    if len(data) <= HEADER_BYTES or data[0] & _INDICES or rng.random() < 0.2:
        return data
    own = _bundle(data[0] & 3)
    frame = bytearray(data[1:])
    frame[: len(MAGIC) + 1] = MAGIC + b"\1"
    frame[5] %= 4
    frame[6:8] = own.tokens.to_bytes(2, "little")
    frame[8] %= own.config.num_quantizers + 1
    masked = int.from_bytes(frame[9:13], "little") % (1 << frame[8])
    frame[9:13] = masked.to_bytes(4, "little")
    frame[HEADER_BYTES - 4 : HEADER_BYTES] = (len(frame) - HEADER_BYTES).to_bytes(4, "little")
    return data[:1] + bytes(frame)


TARGET = Target("payload", check, seeds, vary, max_bytes=1_000)
