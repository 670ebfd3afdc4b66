"""Connections of a gRPC port under pressure: real sockets, hand-made frames, a real server."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from benchmarks.attacks.peers.frames import call, data, opening, reset, settings_ack
from cloud_server.access import connections
from cloud_server.access.admission import Arrivals
from cloud_server.access.connections import Connections
from cloud_server.access.sockets import Peer, accepted_sockets, parse_peer
from cloud_server.methods import Methods

CHECK = "/grpc.health.v1.Health/Check"
LIMIT_S = 20.0
STREAMS = 8
NO_POOL = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


class Served:
    """A health service behind our limits."""

    def __init__(self, most: int, most_abandoned: int, seconds: float, arriving: int) -> None:
        self.connections = Connections(most, 1.0, most_abandoned)
        self.arrivals = Arrivals(arriving, 1.0)
        self._server = grpc.aio.server(options=(("grpc.max_concurrent_streams", STREAMS),))
        methods = Methods(self.arrivals, self.connections, seconds)
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), methods)
        self._server.add_generic_rpc_handlers((methods,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    async def start(self) -> None:
        await self._server.start()
        self.connections.start(self.port)

    async def stop(self) -> None:
        await self.connections.stop()
        await self._server.stop(0)

    async def check(self) -> int:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", NO_POOL) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT_S)
            return int(answer.status)

    async def opened(self, *first: bytes) -> socket.socket:
        """A connection of somebody hostile, who does not read."""
        loop = asyncio.get_running_loop()
        own = socket.socket()
        own.setblocking(False)
        await loop.sock_connect(own, ("127.0.0.1", self.port))
        await loop.sock_sendall(own, b"".join((opening(), settings_ack(), *first)))
        return own


@asynccontextmanager
async def served(
    most: int = 1000, abandoned: int = 1000, seconds: float = LIMIT_S, arriving: int = 1000
) -> AsyncIterator[Served]:
    found = Served(most, abandoned, seconds, arriving)
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


async def until(true: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def closed(own: socket.socket) -> bool:
    """Has the other side ended it?"""
    try:
        while piece := own.recv(65_536):
            assert piece
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def test_idle_connections_give_way_in_the_order_of_their_use() -> None:
    async def run() -> None:
        async with served(most=16) as service:
            with ExitStack() as stack:
                asked = stack.enter_context(await service.opened())
                await until(lambda: service.connections.open == 1)
                name = f"ipv4:127.0.0.1:{asked.getsockname()[1]}"
                service.connections.question_admitted(name)
                service.connections.question_ended(name)
                idle = [stack.enter_context(await service.opened()) for _ in range(20)]
                await until(lambda: closed(idle[0]))
                await until(lambda: service.connections.open <= 14)
                assert not closed(asked)
                assert not closed(idle[-1])
                assert await service.check() == health_pb2.HealthCheckResponse.SERVING
                assert service.connections.close(name) == 1
                await until(lambda: closed(asked))

    asyncio.run(run())


def test_a_question_being_answered_keeps_its_connection() -> None:
    async def run() -> None:
        async with served(most=8) as service:
            with ExitStack() as stack:
                busy = stack.enter_context(await service.opened())
                await until(lambda: service.connections.open == 1)
                service.connections.question_admitted(f"ipv4:127.0.0.1:{busy.getsockname()[1]}")
                for _ in range(30):
                    stack.enter_context(await service.opened())
                await until(lambda: service.connections.open > 1)
                await until(lambda: service.connections.open <= 7)
                assert not closed(busy)

    asyncio.run(run())


@pytest.mark.parametrize("path", [CHECK, "/nobody.Service/Knows"])
def test_streams_that_are_reset_at_once_end_their_connection(path: str) -> None:
    async def run() -> None:
        async with served(abandoned=20) as service:
            with await service.opened() as own:
                loop = asyncio.get_running_loop()
                stream = 1
                deadline = time.monotonic() + LIMIT_S
                while not closed(own):
                    assert time.monotonic() < deadline
                    try:
                        await loop.sock_sendall(own, call(stream, path) + reset(stream))
                    except ConnectionError:
                        break
                    await asyncio.sleep(0.001)
                    stream += 2
            assert await service.check() == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(run())


def test_a_connection_of_many_silent_calls_is_ignored_and_ended_once_others_need_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MAX_UNPROVEN_CALLS", STREAMS - 4)
    monkeypatch.setattr(connections, "QUARANTINE_SECONDS", 0.5)

    async def run() -> None:
        silent = [call(2 * number + 1, CHECK) for number in range(STREAMS)]
        async with served(arriving=STREAMS + 4) as service:
            with await service.opened(*silent) as first:
                await until(lambda: len(service.arrivals) == STREAMS)
                assert not closed(first)
                with await service.opened(*silent) as second:
                    for _ in range(3):
                        status = await service.check()
                        assert status == health_pb2.HealthCheckResponse.SERVING
                    assert len(service.arrivals) <= STREAMS + 4
                    await until(lambda: closed(second))
                    assert not closed(first)

    asyncio.run(run())


def test_a_silent_call_of_any_method_ends_in_time() -> None:
    async def run() -> None:
        async with served(seconds=0.3) as service:
            with await service.opened(call(1, CHECK)):
                await until(lambda: len(service.arrivals) == 1)
                await until(lambda: len(service.arrivals) == 0)

    asyncio.run(run())


def test_bytes_that_are_no_message_have_a_clear_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def run() -> grpc.aio.AioRpcError:
        async with (
            served() as service,
            grpc.aio.insecure_channel(f"127.0.0.1:{service.port}", NO_POOL) as channel,
        ):
            call: Any = channel.unary_unary(CHECK)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff\xff", timeout=LIMIT_S)
            return caught.value

    error = asyncio.run(run())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not caplog.records


def test_calls_that_ended_take_no_stream_of_their_connection() -> None:
    """However they ended, and before garbage is collected."""

    async def run() -> list[str]:
        ends = []
        async with (
            served() as service,
            grpc.aio.insecure_channel(f"127.0.0.1:{service.port}", NO_POOL) as channel,
        ):
            serialize = health_pb2.HealthCheckRequest.SerializeToString
            watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch", serialize)
            check: Any = channel.unary_unary(CHECK, serialize)
            other: Any = channel.unary_unary("/nobody.Service/Knows", serialize)
            for _ in range(3 * STREAMS):
                call = watch(health_pb2.HealthCheckRequest(), timeout=LIMIT_S)
                ends.append("watched" if await call.read() else "nothing")
                call.cancel()
                for method in (check, other):
                    request = health_pb2.HealthCheckRequest(service="nobody")
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await method(request, timeout=LIMIT_S)
                    ends.append(caught.value.code().name)
        return ends

    gc.disable()
    try:
        assert set(asyncio.run(run())) == {"watched", "NOT_FOUND", "UNIMPLEMENTED"}
    finally:
        gc.enable()


def test_names_of_peers() -> None:
    assert parse_peer("ipv4:192.0.2.1:50000") == Peer("192.0.2.1", 50000)
    assert parse_peer("ipv6:%5B2001:db8::1%5D:50000") == Peer("2001:db8::1", 50000)
    assert parse_peer("ipv6:[::ffff:192.0.2.1]:50000") == Peer("192.0.2.1", 50000)
    assert parse_peer("ipv6:%5Bfe80::1%25eth0%5D:50000") == Peer("fe80::1", 50000)
    for other in ("", "unix:/run/service", "unix:", "ipv4:nonsense:1", "ipv4:192.0.2.1:x"):
        assert parse_peer(other) is None


def test_accepted_connections_by_port() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as client,
        listening.accept()[0] as own,
    ):
        found = accepted_sockets(listening.getsockname()[1])
        assert found == {Peer("127.0.0.1", client.getsockname()[1]): own.fileno()}


def test_frames_are_well_formed() -> None:
    assert len(call(1)) == 9 + int.from_bytes(call(1)[:3], "big")
    assert data(1, b"x")[:9] == bytes.fromhex("000001000000000001")


@pytest.mark.parametrize("left", [2, 40])
def test_memory_goes_back_when_a_rush_is_over_even_right_after_it(
    monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """With many still there it waits until calls need not give way any more."""
    live = {Peer("10.0.0.1", port): port for port in range(100)}
    given: list[float] = []
    monkeypatch.setattr(connections, "accepted_sockets", lambda port: dict(live))
    monkeypatch.setattr(connections, "release_free_memory", lambda: given.append(time.monotonic()))
    monkeypatch.setattr(connections, "SCAN_SECONDS", 0.01)
    monkeypatch.setattr(connections, "PRESSURE_SECONDS", 0.5)

    async def rush() -> None:
        own = Connections(1000, 1.0, 1000)
        own.start(1)
        try:
            await until(lambda: own.open == 100)
            began = time.monotonic()
            own.call_started("ipv4:10.0.0.1:5", evicted_another=True)
            for peer in list(live)[left:]:
                del live[peer]
            await until(lambda: bool(given))
            assert (given[0] - began < 0.5) == (left == 2)
            await asyncio.sleep(0.1)
            assert len(given) == 1
        finally:
            await own.stop()

    asyncio.run(rush())
