"""An engine that dies: readiness goes, questions fail fast, a restart recovers."""

from __future__ import annotations

import asyncio
import time
import urllib.error
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aligned_vq.errors import AlignedVQError, CloudUnreachable, EngineError
from cloud_server.app import CloudServer
from cloud_server.config import CloudConfig
from cloud_server.engine.transformers.engine import TransformersEngine
from cloud_server.model import CloudModel, load_cloud_model
from edge_client import EdgeClient, EdgeConfig
from tests.e2e.operations.test_operators import fetched
from tests.e2e.raw import GOOD_QUESTION, picture


class Dead(BaseException):
    """Ends the engine's thread; what is an Exception does not."""


STATES = health_pb2.HealthCheckResponse
ONCE = EdgeConfig(attempts=1, connect_seconds=5)


def status(url: str) -> int:
    try:
        fetched(url)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def asked(target: str, bundle: Path, tokens: int = 4) -> AlignedVQError | None:
    with EdgeClient(target, bundle, ONCE) as client:
        try:
            client.ask(picture(), GOOD_QUESTION, max_tokens=tokens)
        except AlignedVQError as error:
            return error
    return None


def wait_for_work(server: CloudServer) -> None:
    engine = server._engine
    assert isinstance(engine, TransformersEngine)
    deadline = time.monotonic() + 10
    while not engine._running:
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def life(
    model: CloudModel, config: CloudConfig, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = CloudServer(model, config)
    await server.start()
    target, http = f"127.0.0.1:{server.port}", f"http://127.0.0.1:{server.http_port}"
    try:
        async with grpc.aio.insecure_channel(target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == STATES.SERVING
            assert await asyncio.to_thread(asked, target, bundle) is None
            running = asyncio.create_task(asyncio.to_thread(asked, target, bundle, 1500))
            await asyncio.to_thread(wait_for_work, server)

            def broken() -> None:
                raise Dead

            monkeypatch.setattr(server._engine, "_admit", broken)
            assert isinstance(await running, EngineError)
            assert (await asyncio.wait_for(watch.read(), 5)).status == STATES.NOT_SERVING
            started = time.monotonic()
            refused = await asyncio.to_thread(asked, target, bundle)
            assert isinstance(refused, CloudUnreachable)
            assert "engine here has stopped" in str(refused)
            assert time.monotonic() - started < 2
            for path, words in (("readyz", 503), ("healthz", 503), ("metrics", 200)):
                assert await asyncio.to_thread(status, f"{http}/{path}") == words
    finally:
        await server.stop()


def test_a_dead_engine_is_told_and_a_restart_recovers(
    talkative: Path,
    bundle_directory: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = CloudConfig(bundle_directory, str(talkative), port=0, http_port=0, device="cpu")
    model = load_cloud_model(config)
    asyncio.run(life(model, config, bundle_directory, monkeypatch))
    assert "not accepting questions: the engine cannot answer" in caplog.text

    async def again() -> AlignedVQError | None:
        server = CloudServer(model, config)
        await server.start()
        try:
            return await asyncio.to_thread(asked, f"127.0.0.1:{server.port}", bundle_directory)
        finally:
            await server.stop()

    assert asyncio.run(again()) is None
