"""Payloads decoded together: each gets its own result, and a full queue refuses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
import torch

from aligned_vq.answers import Timings
from aligned_vq.errors import CorruptPayload, Overloaded
from aligned_vq.types import Payload
from cloud_server.decode.batcher import DecodeBatcher
from cloud_server.decode.image_decoder import EngineImage
from cloud_server.decode.lru_byte_cache import LruByteCache


def payload(number: int) -> Payload:
    return Payload(bytes(16), 1, 1, 0, "fixed", bytes([number]), 0)


class Decoder:
    """Doubles the payload's only byte; 13 is bad luck; passes wait for the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, payloads: Sequence[Payload]) -> list[EngineImage | Exception]:
        assert self.gate.wait(10)
        self.sizes.append(len(payloads))
        return [
            CorruptPayload("thirteen")
            if own.body[0] == 13
            else EngineImage(torch.tensor([2 * own.body[0]]), Timings())
            for own in payloads
        ]


def test_what_comes_during_a_pass_forms_the_next() -> None:
    decoder = Decoder()

    async def run() -> list[EngineImage | BaseException]:
        batcher = DecodeBatcher(decoder, max_batch=4, max_waiting=20)
        first = asyncio.create_task(batcher.decode(payload(1)))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.decode(payload(n))) for n in range(8, 15)]
        await asyncio.sleep(0.01)
        others[0].cancel()  # its question was given up before its pass
        await asyncio.sleep(0.01)
        decoder.gate.set()
        found = await asyncio.gather(first, *others, return_exceptions=True)
        again = await batcher.decode(payload(50))
        await batcher.close()
        return [*found, again]

    found = asyncio.run(run())
    values = [int(own.engine_input) if isinstance(own, EngineImage) else type(own) for own in found]
    assert values == [2, asyncio.CancelledError, 18, 20, 22, 24, CorruptPayload, 28, 100]
    assert decoder.sizes == [1, 3, 3, 1]


def test_a_full_queue_refuses_and_a_bug_reaches_those_of_its_pass() -> None:
    decoder = Decoder()

    async def run() -> None:
        batcher = DecodeBatcher(decoder, max_batch=2, max_waiting=2)
        running = asyncio.create_task(batcher.decode(payload(1)))
        await asyncio.sleep(0.01)
        waiting = [asyncio.create_task(batcher.decode(payload(n))) for n in (2, 3)]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="at most 2 images"):
            await batcher.decode(payload(4))
        decoder.gate.set()
        assert all(isinstance(own, EngineImage) for own in await asyncio.gather(running, *waiting))
        decoder.sizes = None  # type: ignore[assignment]
        with pytest.raises(AttributeError):
            await batcher.decode(payload(5))
        decoder.sizes = []
        assert int((await batcher.decode(payload(6))).engine_input) == 12
        await batcher.close()

    asyncio.run(run())


def test_a_byte_budget_lets_the_longest_unused_go() -> None:
    held: LruByteCache[bytes] = LruByteCache(10, len)
    for key in (b"a", b"b", b"c"):
        held.put(key, key * 3)
    assert held.get(b"a") == b"aaa"
    held.put(b"d", b"dddd")
    assert [key in held for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert (held.used_bytes, len(held)) == (10, 3)
    held.put(b"e", bytes(11))
    held.put(b"a", bytes(3))
    assert b"e" not in held
    assert held.get(b"a") == b"aaa"
    nothing: LruByteCache[bytes] = LruByteCache(0, len)
    nothing.put(b"a", b"a")
    assert len(nothing) == 0
