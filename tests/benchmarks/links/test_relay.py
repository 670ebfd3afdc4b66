"""The relay over real sockets: what comes out is what went in, and no faster than the link."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from aligned_vq.errors import ConfigError
from benchmarks.links.profiles import PROFILES, Link, profiles, rate_text, sweep
from benchmarks.links.relay import SENDER_BYTES, Relay, lanes

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


async def digest_of_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads to the end, then answers with the SHA-256 of what came."""
    writer.write(hashlib.sha256(await reader.read()).digest())
    await writer.drain()
    writer.close()


async def sent_through(link: Link, data: bytes) -> tuple[bytes, float]:
    """The answer, and seconds from the first byte to it."""
    async with server(digest_of_all) as target, Relay(target, *lanes(link)) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        began = time.monotonic()
        writer.write(data)
        writer.write_eof()
        answer = await reader.read()
        spent = time.monotonic() - began
        writer.close()
    return answer, spent


@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
def test_every_byte_arrives_in_order(size: int) -> None:
    data = bytes(n % 251 for n in range(1000)) * (size // 1000) + b"x" * (size % 1000)
    link = Link("fast", 10**6, 10**6, delay_ms=2, jitter_ms=3, loss=0.01)
    answer, _ = asyncio.run(sent_through(link, data))
    assert answer == hashlib.sha256(data).digest()


def test_it_is_never_faster_than_the_link() -> None:
    link = Link("slow", up_kbit=2000, down_kbit=2000, delay_ms=100)
    data = bytes(100_000)
    answer, spent = asyncio.run(sent_through(link, data))
    assert answer == hashlib.sha256(data).digest()
    assert spent >= 0.1 + 8 * len(data) / 2e6 + 0.1  # up, its time at the rate, and back


def test_a_sender_is_held_up_by_a_slow_link() -> None:
    async def run() -> int:
        link = Link("thin", up_kbit=8, down_kbit=8, delay_ms=1)
        async with server(digest_of_all) as target, Relay(target, *lanes(link)) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            taken = 0
            while taken < 64:  # MiB; a relay that took everything would take all of them
                writer.write(bytes(2**20))
                taken += 1
                try:
                    await asyncio.wait_for(writer.drain(), 1.0)
                except TimeoutError:
                    break
            writer.transport.abort()
            del reader
            return taken

    assert asyncio.run(run()) < 32


def test_the_end_of_one_side_reaches_the_other() -> None:
    async def run() -> bytes:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"last words")
            writer.close()

        link = Link("any", 1000, 1000, delay_ms=5)
        async with server(hang_up) as target, Relay(target, *lanes(link)) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            heard = await reader.read()
            writer.close()
            return heard

    assert asyncio.run(run()) == b"last words"


def test_it_holds_what_is_under_way_and_a_senders_buffer() -> None:
    up, down = lanes(Link("satellite", 3000, 25_000, delay_ms=280))
    for lane, rate_kbit in ((up, 3000), (down, 25_000)):
        under_way = 125 * rate_kbit * 0.28
        assert under_way <= lane.buffer_bytes - SENDER_BYTES + lane.piece_bytes
        assert lane.buffer_bytes <= SENDER_BYTES + under_way


def test_every_profile_says_where_it_comes_from() -> None:
    names = [line[:-1] for line in PROFILES.read_text().splitlines() if line[:1].isalnum()]
    assert names == ["3g", "lte", "5g", "wifi", "satellite", "lora"]
    for link in profiles(names):
        assert len(link.source) > 40
    with pytest.raises(ConfigError, match=r"expected links out of 3g, .* got 'pigeon'"):
        profiles(["3g", "pigeon"])


def test_a_sweep_has_a_link_for_each_rate() -> None:
    links = sweep((50, 1000, 2500), 10)
    assert [link.name for link in links] == ["50 kbit/s", "1 Mbit/s", "2.5 Mbit/s"]
    assert all(link.up_kbit == link.down_kbit and link.delay_ms == 10 for link in links)
    assert rate_text(100_000) == "100 Mbit/s"


@pytest.mark.parametrize("bad", [(0, 1, 0, 0, 0), (1, 1, -1, 0, 0), (1, 1, 0, 0, 0.6)])
def test_impossible_links_are_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="bad: "):
        Link("bad", *bad)  # type: ignore[arg-type]
